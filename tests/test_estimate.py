"""Plan against build: for corpora of many sizes, the build takes the exchange whose requests the plan announces."""

from types import SimpleNamespace
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from prep.corpus.documents import Rule
from prep.corpus.inputs import InputsBuilder, Kind, Root
from prep.estimate import Estimate, estimate, expected_volume
from prep.partitions import MERGE_BYTES, PLAN_ERROR, planned_or_counted
from prep.plan import Plan, make_units
from prep.records import UnitRecord
from prep.settings import ExchangeName, Settings
from prep.tasks import Tokens, merge_tasks
from prep.tokens.merge import MergeTask
from prep.tokens.sources import make_sources
from prep.tokens.store import LAST_PLACE
from prep.tokens.tokenizer import PreparedTokenizer

PARTITION_BYTES = 64 << 20


def powers(least: float, most: float) -> st.SearchStrategy[int]:
    """Numbers of any order of magnitude between 10**least and 10**most."""
    return st.floats(least, most).map(lambda power: round(10**power))


def plan_of(num_files: int, file_bytes: int) -> Plan:
    """The plan for files that are not there."""
    builder = InputsBuilder()
    for number in range(num_files):
        name = f"{number:04}.jsonl"
        builder.add(Root("s3://bucket/corpus/", "corpus/"), name, file_bytes, "0", Kind("jsonl", ""), 0, f"/{name}")
    inputs = builder.finish()
    return Plan(inputs, make_units(inputs, Rule("line", "text")), -(-num_files * file_bytes // PARTITION_BYTES))


def planned_and_built(
    plan: Plan, choice: ExchangeName, vocab_size: int, stored_error: float, pairs_error: float
) -> tuple[Estimate, list[MergeTask], int]:
    """The estimate, the merge tasks of a build that counts so many times as much as planned, and the bytes that it stores."""
    places = {"out": "s3://bucket/out", "scratch": "s3://bucket/scratch"}
    config = Settings(corpus=("s3://bucket/corpus",), exchange=choice, **places)
    planned = expected_volume(config, plan, vocab_size)
    stored_bytes = round(planned.stored_bytes * stored_error)
    units = make_sources([(f"{number}", 0, LAST_PLACE, 8, 1) for number in range(planned.num_units)])
    tokens = Tokens("s3://bucket/scratch/tokens", units, UnitRecord(stored_bytes=stored_bytes))
    tokenizer = cast(PreparedTokenizer, SimpleNamespace(vocab_size=vocab_size))
    num_pairs = max(1, round(planned.num_pairs * pairs_error))
    tasks = merge_tasks(config, plan, tokens, num_pairs, tokenizer)
    return estimate(config, plan, vocab_size, fast=True), tasks, stored_bytes


@given(
    num_files=powers(0, 2.5),
    file_bytes=powers(4, 9.6),
    choice=st.sampled_from(["auto", "two-level"]),
    vocab_size=st.sampled_from([30_522, 128_000]),
    stored_error=st.floats(0.7, 1.4),
    pairs_error=st.floats(0.8, 1.2),
)
@settings(deadline=None, max_examples=100)
def test_a_build_takes_the_exchange_of_its_plan(
    num_files: int, file_bytes: int, choice: ExchangeName, vocab_size: int, stored_error: float, pairs_error: float
) -> None:
    plan = plan_of(num_files, file_bytes)
    cost, tasks, _ = planned_and_built(plan, choice, vocab_size, stored_error, pairs_error)
    assert len(tasks) == cost.merge_tasks
    assert cost.exchange == ("two-level" if tasks else "one-level")


@given(num_files=powers(0, 2), file_bytes=powers(4, 9.6), stored_error=st.floats(0.01, 100))
@settings(deadline=None, max_examples=50)
def test_a_merged_file_is_bounded_however_wrong_the_plan_is(num_files: int, file_bytes: int, stored_error: float) -> None:
    plan = plan_of(num_files, file_bytes)
    _, tasks, stored_bytes = planned_and_built(plan, "two-level", 30_522, stored_error, 1.0)
    is_one_unit = all(task.first_unit == task.last_unit for task in tasks)
    assert is_one_unit or stored_bytes / len(tasks) <= PLAN_ERROR * MERGE_BYTES


def test_one_figure_that_is_far_from_the_plan_is_enough_to_follow_the_count() -> None:
    config = Settings(corpus=("s3://bucket/corpus",), out="s3://bucket/out", scratch="s3://bucket/scratch")
    planned = expected_volume(config, plan_of(100, 10**9), 30_522)
    for field, value in planned._asdict().items():
        near, far = (planned._replace(**{field: round(value * error)}) for error in (1.4, 1.6))
        assert planned_or_counted(planned, near) == planned
        assert planned_or_counted(planned, far) == far

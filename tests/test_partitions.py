import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep import partitions
from prep.partitions import MIN_DOCUMENTS, hold_out, plan_pairs
from prep.plan import Plan
from prep.records import SKETCH_SIZE, UnitRecord
from shards.errors import UserError


def record(hashes: list[int], buckets: list[tuple[int, int]] | None = None) -> UnitRecord:
    unit = UnitRecord(used_documents=len(hashes))
    for value in hashes:
        unit.see({value: 1})
    unit.bucket_documents = [documents for documents, _ in buckets or []]
    unit.bucket_tokens = [tokens for _, tokens in buckets or []]
    return unit


SPREAD = [i * 2**64 // 1000 for i in range(1000)]


def test_a_large_corpus_holds_out_its_fraction() -> None:
    held_out = hold_out(record(SPREAD), 0.0499, 2)
    assert (held_out.documents, held_out.everywhere) == (50, False)


def test_at_least_eight_are_held_out() -> None:
    held_out = hold_out(record(SPREAD[::10]), 0.01, 2)
    assert held_out.everywhere and sum(value < held_out.hash_below for value in SPREAD[::10]) == 8


@pytest.mark.parametrize(("count", "expected"), [(4, 2), (5, 2), (15, 7), (16, 8)])
def test_a_tiny_corpus_holds_out_at_most_half(count: int, expected: int) -> None:
    values = [2**63 + i for i in range(count)]
    held_out = hold_out(record(values), 0.01, 2)
    assert sum(value < held_out.hash_below for value in values) == expected


def test_copies_of_a_document_count_once() -> None:
    values = [2**63 + i for i in range(20)]
    held_out = hold_out(record(values * 50), 0.01, 2)
    assert sum(value < held_out.hash_below for value in values) == 8


@pytest.mark.parametrize(("count", "fraction"), [(0, 0.01), (1, 0.01), (3, 0.01), (1, 0.0)])
def test_too_few_documents_is_said(count: int, fraction: float) -> None:
    with pytest.raises(UserError, match="too few"):
        hold_out(record([2**63 + i for i in range(count)] * 3), fraction, 2)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 50_000)), min_size=1, max_size=40), st.integers(1, 3))
def test_tasks_cover_every_bucket_once_per_copy(buckets: list[tuple[int, int]], copies: int) -> None:
    plan = Plan((), (), len(buckets), 1)
    total = record(SPREAD, [*buckets, (50, 1000)])
    held_out = hold_out(total, 0.05, 2)
    train = [task for task in plan_pairs(total, held_out, plan, copies) if task.split == "train"]
    for copy in range(copies):
        runs = [(task.first_bucket, task.last_bucket) for task in train if task.copy == copy]
        assert [bucket for first, last in runs for bucket in range(first, last)] == list(range(len(buckets)))
        if sum(documents for documents, _ in buckets) >= MIN_DOCUMENTS:
            assert all(sum(d for d, _ in buckets[first:last]) >= MIN_DOCUMENTS for first, last in runs)


def test_a_large_partition_is_built_in_key_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "MAX_TOKENS", 1000)
    total = record(SPREAD, [(500, 2500), (500, 900), (50, 100)])
    tasks = plan_pairs(total, hold_out(total, 0.05, 2), Plan((), (), 2, 1), 1)
    assert [(t.split, t.first_bucket, t.key_range, t.num_key_ranges) for t in tasks] == [
        ("train", 0, 0, 3),
        ("train", 0, 1, 3),
        ("train", 0, 2, 3),
        ("train", 1, 0, 1),
        ("eval", 2, 0, 1),
    ]


@given(st.lists(st.integers(0, 5000), max_size=300), st.integers(0, 300))
def test_sketches_of_parts_sum_to_the_sketch_of_the_whole(hashes: list[int], cut: int) -> None:
    whole = record(hashes)
    total = record(hashes[:cut])
    total.add(record(hashes[cut:]))
    assert total.sketch == whole.sketch and len(whole.sketch) <= SKETCH_SIZE

"""What `prep plan` prints of a corpus far larger than this disk, and what a build of a very small one warns of."""

import json
import os
import re
import resource
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from commands import run_prep
from conftest import BuildRunner

from prep.estimate import Estimate, describe_estimate, estimate
from prep.plan import make_plan
from prep.settings import Settings
from prep.summary import summary
from shards.manifest import Manifest

FILES = 10_000


@pytest.fixture
def ten_terabytes(tmp_path: Path) -> Settings:
    """Files that have a size and nothing in them."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(FILES):
        path = folder / f"{number:05d}.txt"
        path.touch()
        os.truncate(path, 10**9)
    return Settings(corpus=(str(folder),), out=str(tmp_path / "out"), scratch=str(tmp_path / "scratch"), copies=2)


def calls_of(function: object, *arguments: object) -> int:
    """How many Python functions a call makes: its time on any machine, but for a factor."""
    count = 0

    def see(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(see)
    try:
        assert callable(function)
        function(*arguments)
    finally:
        sys.setprofile(None)
    return count


def lines_of(settings: Settings) -> dict[str, str]:
    return dict(line.split(":", 1) for line in describe_estimate(estimate(settings, make_plan(settings), 30_522, fast=True)))


def test_a_plan_of_ten_terabytes_is_made_at_once(ten_terabytes: Settings) -> None:
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plan = make_plan(ten_terabytes)
    cost = estimate(ten_terabytes, plan, 30_522, fast=True)
    lines = dict(line.split(":", 1) for line in describe_estimate(cost))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before < 100_000, "kB for ten thousand files"
    assert 16 * FILES <= len(plan.units) == cost.units < 17 * FILES and 30_000 < plan.num_partitions < 40_000
    assert cost.pair_tasks >= 2 * plan.num_partitions and cost.exchange == "two-level" and cost.merge_tasks > 10_000
    assert cost.requests_by_tokenize + cost.requests_by_merge + cost.requests_by_pair < 60_000_000, "of two copies"
    assert cost.requests_of_other_exchange > 10**10
    assert max(cost.tokenize_memory_bytes, cost.merge_memory_bytes, cost.pair_memory_bytes) < 2_000_000_000
    assert re.fullmatch(r" +about [0-9.]+ [kM] by tokenize, [0-9.]+ M by merge, [0-9.]+ M by pair", lines["requests"])
    assert re.fullmatch(r" +two-level, ranges of about [0-9.]+ kB; --exchange one-level would take .*", lines["exchange"])
    assert re.match(r" +about \$[0-9]+\.[0-9]{2} for these requests, at \$0.0004 per 1,000 reads", lines["price"])
    assert re.search(r"written to scratch, [0-9.]+ TB read", lines["exchanged"])
    hours = re.search(r"about ([0-9,]+) core-hours", lines["time"])
    assert hours and 100 < int(hours[1].replace(",", "")) < 2_000


def test_ten_terabytes_take_at_most_40_million_requests(ten_terabytes: Settings) -> None:
    settings = replace(ten_terabytes, copies=1, scratch="s3://bucket/scratch")
    cost = estimate(settings, make_plan(settings), 30_522, fast=True)
    assert cost.requests_by_tokenize + cost.requests_by_merge + cost.requests_by_pair <= 40_000_000


def test_the_work_of_planning_grows_with_the_files(ten_terabytes: Settings) -> None:
    plan = make_plan(ten_terabytes)
    assert calls_of(lambda: estimate(ten_terabytes, plan, 30_522, fast=True)) < 10 * FILES


def test_a_small_corpus_is_a_minute(tmp_path: Path) -> None:
    (tmp_path / "small.txt").write_text("One line. And more.\n" * 1000)
    settings = Settings(corpus=(str(tmp_path / "small.txt"),), out=str(tmp_path / "out"), scratch=str(tmp_path / "scratch"))
    lines = lines_of(settings)
    assert "about 1 core-minute," in lines["time"] and lines["tasks"].split() == ["1", "tokenize,", "2", "pair"]
    assert " 0 by merge, " in lines["requests"] and lines["exchange"].strip().startswith("one-level, ")


def test_a_plan_as_json_has_every_figure(tmp_path: Path) -> None:
    (tmp_path / "small.txt").write_text("One line. And more.\n" * 1000)
    places = ("--out", tmp_path / "out", "--scratch", tmp_path / "scratch", "--tokenizer", "train:200")
    done = run_prep("plan", "--json", "--corpus", tmp_path / "small.txt", *places)
    figures = json.loads(done.stdout)
    assert done.returncode == 0 and set(figures) == {"partitions", *(field.name for field in fields(Estimate))}
    assert figures["files"] == figures["units"] == 1 and figures["bytes"] == 20_000 and figures["exchange"] == "one-level"


def test_a_build_that_holds_out_too_much_or_has_many_unknown_tokens_warns(build: BuildRunner, corpus: Path) -> None:
    manifest, _ = Manifest.from_json((build(corpus) / "manifest.json").read_bytes(), "")
    swapped = replace(manifest, splits={"train": manifest.splits["eval"], "eval": manifest.splits["train"]})
    warnings = [line for line in summary(swapped, "out", 1.0) if line.startswith("warning: more is held out (")]
    assert len(warnings) == 1 and "set --eval-fraction 0, or another --document" in warnings[0]
    assert not any(line.startswith("warning") for line in summary(manifest, "out", 1.0))
    ledger = manifest.ledger | {"unknown_tokens": manifest.ledger["tokens"] // 50}
    warnings = [line for line in summary(replace(manifest, ledger=ledger), "out", 1.0) if line.startswith("warning")]
    assert len(warnings) == 1 and "% of the tokens are [UNK]; choose a --tokenizer" in warnings[0]

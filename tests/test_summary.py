"""What `prep plan` prints of a corpus far larger than this disk, and what a build of a very small one warns of."""

import os
import re
import resource
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import BuildRunner

from prep.plan import make_plan
from prep.settings import Settings
from prep.summary import estimate, summary
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


def test_a_plan_of_ten_terabytes_is_made_at_once(ten_terabytes: Settings) -> None:
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plan = make_plan(ten_terabytes)
    lines = dict(line.split(":", 1) for line in estimate(plan, 2, fast=True))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before < 100_000, "kB for ten thousand files"
    assert len(plan.units) == FILES and 8_000 < plan.num_partitions < 10_000
    tasks = re.fullmatch(r" +10,000 tokenize, ([0-9,]+) pair", lines["tasks"])
    assert tasks and int(tasks[1].replace(",", "")) >= 2 * plan.num_partitions
    assert re.search(r"written to scratch, [0-9.]+ TB read", lines["exchanged"])
    assert re.search(r" ranges of about [0-9.]+ kB per task", lines["requests"])
    assert re.fullmatch(
        r" +about [3-9][0-9]{2}\.[0-9] MB per tokenize task, [3-9][0-9]{2}\.[0-9] MB per pair task", lines["memory"]
    )
    hours = re.search(r"about ([0-9,]+) core-hours", lines["time"])
    assert hours and 100 < int(hours[1].replace(",", "")) < 2_000


def test_the_work_of_planning_grows_with_the_files(ten_terabytes: Settings) -> None:
    plan = make_plan(ten_terabytes)
    assert calls_of(lambda: list(estimate(plan, 2, fast=True))) < 10 * FILES


def test_a_small_corpus_is_a_minute(tmp_path: Path) -> None:
    (tmp_path / "small.txt").write_text("One line. And more.\n" * 1000)
    settings = Settings(corpus=(str(tmp_path / "small.txt"),), out=str(tmp_path / "out"), scratch=str(tmp_path / "scratch"))
    lines = dict(line.split(":", 1) for line in estimate(make_plan(settings), 1, fast=True))
    assert "about 1 core-minute," in lines["time"] and lines["tasks"].split() == ["1", "tokenize,", "2", "pair"]


def test_a_build_that_holds_out_too_much_or_has_many_unknown_tokens_warns(build: BuildRunner, corpus: Path) -> None:
    manifest, _ = Manifest.from_json((build(corpus) / "manifest.json").read_bytes(), "")
    swapped = replace(manifest, splits={"train": manifest.splits["eval"], "eval": manifest.splits["train"]})
    warnings = [line for line in summary(swapped, "out", 1.0) if line.startswith("warning: more is held out (")]
    assert len(warnings) == 1 and "set --eval-fraction 0, or another --document" in warnings[0]
    assert not any(line.startswith("warning") for line in summary(manifest, "out", 1.0))
    ledger = manifest.ledger | {"unknown_tokens": manifest.ledger["tokens"] // 50}
    warnings = [line for line in summary(replace(manifest, ledger=ledger), "out", 1.0) if line.startswith("warning")]
    assert len(warnings) == 1 and "% of the tokens are [UNK]; choose a --tokenizer" in warnings[0]

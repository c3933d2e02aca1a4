"""Stages done one by one and in shards, as arrays of jobs do them: in any order, at once, and too early."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import HANG_S, ROOT, manifest_of, run_prep

from prep.build import build
from prep.settings import Settings
from prep.summary import describe_plan
from prep.tasks import TaskPart, find_task_part
from shards import storage
from shards.errors import NotReadyError, UserError


@pytest.fixture
def settings(tmp_path: Path, corpus: Path, vocabulary: Path) -> dict[str, Any]:
    lines = corpus.read_bytes().splitlines(keepends=True)
    for number in range(5):  # each is a unit
        (tmp_path / "corpus").mkdir(exist_ok=True)
        (tmp_path / "corpus" / f"{number}.txt").write_bytes(b"".join(lines[number::5]))
    places = {"corpus": (str(tmp_path / "corpus"),), "out": str(tmp_path / "out"), "scratch": str(tmp_path / "scratch")}
    return {**places, "tokenizer": str(vocabulary), "engine": "executors:threads", "workers": 2, "shard_bytes": 200 << 10}


def stage(settings: dict[str, Any], name: str, shard: str = "") -> None:
    build(Settings(**settings, stage=name, task_shard=shard))


@pytest.mark.parametrize("exchange", ["one-level", "two-level"])
def test_stages_in_shards_give_what_a_whole_build_gives(
    exchange: str, settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, settings = settings, settings | {"exchange": exchange}
    with pytest.raises(NotReadyError, match=r"5 of 5 units are not done yet \(0, 1, 2, 3, 4\); finish --stage tokenize"):
        stage(settings, "pair", "0/3")
    for shard in ("2/3", "0/3"):
        stage(settings, "tokenize", shard)
    with pytest.raises(NotReadyError, match=r"2 of 5 units are not done yet \(1, 4\)"):
        stage(settings, "pair", "0/3")
    stage(settings, "tokenize", "1/3")
    assert capsys.readouterr().err.splitlines()[-1] == "tokenize part 1/3: 2 of 5 units done here"
    if exchange == "two-level":
        stage(settings, "merge", "1/2")
        with pytest.raises(NotReadyError, match=r"2 of 4 merge tasks are not done yet \(0, 2\); finish --stage merge"):
            stage(settings, "pair", "0/3")
    stage(settings, "merge", "0/2")
    done = "2 of 4" if exchange == "two-level" else "0 of 0"
    assert capsys.readouterr().err.splitlines()[-1] == f"merge part 0/2: {done} merge tasks done here"
    for shard in ("1/2", "1/2"):
        stage(settings, "pair", shard)
    with pytest.raises(NotReadyError, match=r"2 of 4 pair tasks are not done yet \(0, 2\); finish --stage pair"):
        stage(settings, "commit")
    stage(settings, "pair", "0/2")
    stage(settings, "commit", "1/2")
    assert not (tmp_path / "out" / "manifest.json").exists()
    stage(settings, "commit", "0/2")
    build(Settings(**whole | {"out": str(tmp_path / "whole"), "scratch": str(tmp_path / "other")}))
    assert manifest_of(tmp_path / "out") == manifest_of(tmp_path / "whole")
    stage(settings, "pair", "0/2")  # and what is finished is left alone
    assert "is finished; it was left as it is" in capsys.readouterr().err
    assert run_prep("verify", tmp_path / "out", "--workers", 1).returncode == 0


@pytest.mark.parametrize("damage", ["short", "flipped", "gone"])
def test_a_shard_that_is_not_what_was_written_is_made_again(damage: str, settings: dict[str, Any], tmp_path: Path) -> None:
    for name in ("tokenize", "pair"):
        stage(settings, name)
    shard = min((tmp_path / "out" / "train").iterdir())
    content = bytearray(shard.read_bytes())
    damaged = bytearray(content)
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(content[:-1] if damage == "short" else damaged)
    if damage == "gone":
        shard.unlink()
    with pytest.raises(NotReadyError, match=r"1 of 4 pair tasks are not done yet \(0\)"):
        stage(settings, "commit")
    stage(settings, "pair")
    assert shard.read_bytes() == content
    stage(settings, "commit")
    assert run_prep("verify", tmp_path / "out", "--workers", 1).returncode == 0


def test_tokens_that_are_gone_are_missing(settings: dict[str, Any], tmp_path: Path) -> None:
    stage(settings, "tokenize")
    next((tmp_path / "scratch").rglob("*.tokens")).unlink()
    with pytest.raises(NotReadyError, match=r"1 of 5 units are not done yet \([0-4]\)"):
        stage(settings, "pair")
    stage(settings, "tokenize")
    stage(settings, "pair")
    next((tmp_path / "scratch").rglob("*.tokens")).unlink()  # also where their sum is known
    with pytest.raises(NotReadyError, match=r"1 of 5 units are not done yet \([0-4]\)"):
        stage(settings, "pair")


def test_a_damaged_record_is_found_and_its_task_runs_again(settings: dict[str, Any], tmp_path: Path) -> None:
    """A digit of a number that no one could check later: it would go into the ledger."""
    build(Settings(**settings | {"out": str(tmp_path / "whole")}))
    stage(settings, "tokenize")
    record = next((tmp_path / "scratch").rglob("tokens-*/*.json"))
    content = record.read_bytes()
    changed = content.replace(b'"sketch": {"', b'"sketch": {"1', 1)
    assert changed != content
    record.write_bytes(changed)
    with pytest.raises(NotReadyError, match=r"1 of 5 units are not done yet \([0-4]\)"):
        stage(settings, "pair")
    build(Settings(**settings))
    assert record.read_bytes() == content and manifest_of(tmp_path / "out") == manifest_of(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["short", "gone", "tokenizer"])
def test_a_finished_data_set_that_lost_a_file_is_finished_again(
    damage: str, settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    build(Settings(**settings))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    victim = out / "tokenizer" / "tokenizer.json" if damage == "tokenizer" else min((out / "train").iterdir())
    victim.write_bytes(victim.read_bytes()[:-1])
    if damage != "short":
        victim.unlink()
    assert build(Settings(**settings)) is not None
    assert f"note: {out} was finished, but {victim.relative_to(out)} is missing or has" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert build(Settings(**settings)) is None


def test_the_vocabulary_comes_first(settings: dict[str, Any], tmp_path: Path) -> None:
    trained = settings | {"tokenizer": "train:600"}
    with pytest.raises(NotReadyError, match=r"is missing: the vocabulary is not trained yet; run --stage vocabulary first"):
        stage(trained, "tokenize", "0/2")
    stage(trained, "vocabulary", "1/2")
    assert not list((tmp_path / "scratch").glob("vocabulary-*"))
    stage(trained, "vocabulary", "0/2")
    stage(trained, "tokenize", "0/2")
    assert len(list((tmp_path / "scratch").glob("tokens-*/*.json"))) == 3


def command(settings: dict[str, Any], *arguments: object) -> subprocess.Popen[str]:
    places = ("--corpus", *settings["corpus"], "--out", settings["out"], "--scratch", settings["scratch"])
    line = (sys.executable, "-m", "prep", "build", *places, "--tokenizer", settings["tokenizer"], *arguments)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    return subprocess.Popen(list(map(str, line)), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def test_shards_that_begin_at_once_share_the_folder(settings: dict[str, Any]) -> None:
    """Two of the same build, and one with another seed, of which the first to come is let in."""
    arguments = ("--engine", "executors:threads", "--workers", 1, "--stage", "tokenize")
    running = [
        command(settings, *arguments, "--task-shard", "0/2"),
        command(settings, *arguments, "--task-shard", "1/2"),
        command(settings, *arguments, "--task-shard", "0/2", "--seed", 1),
    ]
    errors = [process.communicate(timeout=HANG_S)[1] for process in running]
    codes = [process.returncode for process in running]
    assert codes in ([0, 0, 2], [2, 2, 0]), errors
    for code, error in zip(codes, errors, strict=True):
        assert ("was built with other settings (seed: " if code else " units done here") in error.splitlines()[-1]


def test_early_is_not_wrong(settings: dict[str, Any]) -> None:
    running = command(settings, "--stage", "commit")
    (line,) = running.communicate(timeout=HANG_S)[1].splitlines()
    assert running.returncode == 75 and "5 of 5 units are not done yet" in line


def test_a_whole_build_keeps_shards_out_and_they_it(settings: dict[str, Any], tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with storage.locked(out, "_build/lock", "build"), pytest.raises(UserError, match="another build is at work there"):
        stage(settings, "tokenize")
    with storage.locked(out, "_build/lock", "build", shared=True):
        for name in ("all", "commit"):
            with pytest.raises(UserError, match="another build is at work there"):
                stage(settings, name)
        stage(settings, "tokenize", "0/9")


def test_only_the_first_is_published_first(tmp_path: Path) -> None:
    for data in (b"one", b"two"):
        storage.publish(str(tmp_path / "a"), data, first=True)
    assert (tmp_path / "a").read_bytes() == b"one" and len(list(tmp_path.iterdir())) == 1


SLURM = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_STEP": "2"}
KUBERNETES = {"JOB_COMPLETION_INDEX": "0", "JOB_COMPLETIONS": "5"}


@pytest.mark.parametrize(
    ("stage", "asked", "environment", "expected"),
    [
        ("all", "", SLURM, (0, 1)),
        ("tokenize", "", {}, (0, 1)),
        ("tokenize", "2/3", SLURM, (2, 3)),
        ("pair", "", SLURM, (2, 3)),
        ("pair", "", {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2"}, (1, 2)),
        ("commit", "", KUBERNETES, (0, 5)),
    ],
)
def test_task_parts(stage: str, asked: str, environment: dict[str, str], expected: tuple[int, int]) -> None:
    part = find_task_part(stage, asked, environment)
    assert part == TaskPart(*expected)
    assert sorted(n for i in range(part.count) for n in TaskPart(i, part.count).of(range(11))) == list(range(11))


@pytest.mark.parametrize(
    ("stage", "asked", "environment", "message"),
    [
        ("tokenize", "3/3", {}, "--task-shard is '3/3', must be I/N with I from 0 to N - 1"),
        ("tokenize", "0/0", {}, "'0/0'"),
        ("pair", "-1/3", {}, "'-1/3'"),
        ("pair", "1", {}, "'1'"),
        ("pair", "\u0661/3", {}, "must be I/N"),
        ("all", "0/3", {}, "add --stage"),
        ("pair", "", {"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_COUNT=,"),
        ("pair", "", SLURM | {"SLURM_ARRAY_TASK_ID": "4"}, "not an array of evenly spaced numbers"),
        ("pair", "", SLURM | {"SLURM_ARRAY_TASK_ID": "99"}, "not an array of evenly spaced numbers"),
        ("pair", "", {"JOB_COMPLETION_INDEX": "1"}, "set JOB_COMPLETIONS"),
        ("pair", "", {"JOB_COMPLETION_INDEX": "5", "JOB_COMPLETIONS": "5"}, "JOB_COMPLETION_INDEX/JOB_COMPLETIONS is '5/5'"),
    ],
)
def test_bad_task_parts(stage: str, asked: str, environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as error:
        find_task_part(stage, asked, environment)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--stage", "pair", "--task-shard", "3/3"), "--task-shard is '3/3'"),
        (("--engine", "nosuch:engine"), "--engine nosuch:engine: cannot be imported"),
    ],
)
def test_bad_places_to_work_are_one_line(arguments: Sequence[str], message: str, settings: dict[str, Any]) -> None:
    places = ("--corpus", *settings["corpus"], "--out", settings["out"], "--tokenizer", settings["tokenizer"])
    done = run_prep("build", *places, *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr
    assert not Path(settings["out"]).exists()


def test_a_plan_names_its_part(settings: dict[str, Any]) -> None:
    lines = list(describe_plan(Settings(**settings, stage="pair", task_shard="1/3")))
    assert "stages:      pair only, part 1/3 of its tasks" in lines
    assert "engine:      executors:threads, 2 at once" in lines


def test_a_stage_that_comes_while_another_has_the_folder_is_early(corpus: Path, vocabulary: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("build", "--corpus", corpus, "--out", out, "--scratch", tmp_path / "scratch", "--tokenizer", vocabulary)
    with storage.locked(str(out), "_build/lock", "build"):
        for stage, code in (("tokenize", 75), ("commit", 75), ("all", 2)):
            done = run_prep(*command, "--stage", stage)
            assert done.returncode == code and "another build is at work there" in done.stderr, done.stderr

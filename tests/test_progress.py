import os
from pathlib import Path

import pytest

from prep import progress
from prep.progress import Progress, StageDisplay, save_progress


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(progress, "_folder", tmp_path)
    return tmp_path


def save_as(pid: int, monkeypatch: pytest.MonkeyPatch, stage: int, task: int, amounts: Progress) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: pid)
        save_progress(stage, task, amounts)


def test_finished_and_running_tasks_add_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    display = StageDisplay("tokenize", 1, 100, str(folder))
    display.finish(0, Progress(25, 2_000_000, 10, 400), was_done=False)
    save_as(11, monkeypatch, 1, 1, Progress(25, 1_000_000, 5, 200))
    save_as(12, monkeypatch, 2, 2, Progress(50, 9_000_000, 90, 9000))  # of another stage
    save_as(13, monkeypatch, 1, 0, Progress(25, 2_000_000, 10, 400))  # finished since
    display.show(force=True)
    assert capsys.readouterr().err.startswith("tokenize  50% ")
    assert display._now() == Progress(50, 3_000_000, 15, 600)


def test_the_task_of_a_killed_worker_counts_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    display = StageDisplay("pair", 2, 100, str(folder))
    save_as(11, monkeypatch, 2, 5, Progress(40, 0, 0, 40))
    save_as(12, monkeypatch, 2, 5, Progress(10, 0, 0, 10))  # it was tried again
    assert display._now().done == 40
    save_as(12, monkeypatch, 2, 5, Progress(60, 0, 0, 60))
    assert display._now().done == 60


def test_what_an_earlier_run_did_is_no_speed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    display = StageDisplay("pair", 2, 10, str(folder))
    display.finish(0, Progress(10, 10**9, 3, 5000), was_done=True)
    display.close()
    assert capsys.readouterr().err == "pair 100% kept from an earlier run, 3 documents, 5.0 k tokens\n"


def test_without_a_folder_only_finished_tasks_count() -> None:
    display = StageDisplay("pair", 2, 10, None)
    display.finish(0, Progress(4), was_done=False)
    assert display._now() == Progress(4)

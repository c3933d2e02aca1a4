"""How far a stage is: what finished tasks and running workers have done, as lines and as a bar."""

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from prep import progress
from prep.progress import Progress, StageDisplay, save_progress

STAGE = 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Set `clock[0]`: the time that the display sees."""
    now = [100.0]
    monkeypatch.setattr("prep.progress.time.monotonic", lambda: now[0])
    return now


def save_as_worker(folder: Path, pid: int, task: int, amounts: Progress, stage: int = STAGE) -> None:
    """What a worker with that process id leaves."""
    before, progress._folder = progress._folder, folder
    try:
        save_progress(stage, task, amounts)
    finally:
        progress._folder = before
    (folder / str(os.getpid())).rename(folder / str(pid))


def line_of(display: StageDisplay, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    display.show(force=True)
    return capsys.readouterr().err


def test_finished_and_unfinished_tasks_are_added(
    tmp_path: Path, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    display = StageDisplay("tokenize", STAGE, 1000, str(tmp_path))
    clock[0] += 10
    display.finish(0, Progress(200, 40_000_000, 3000, 5_000_000), was_done=False)
    save_as_worker(tmp_path, 7, 1, Progress(300, 60_000_000, 4000, 6_000_000))
    assert line_of(display, capsys) == "tokenize  50% 10.0 MB/s, 0:10 left, 7.0 k documents, 11.0 M tokens\n"


def test_what_does_not_belong_to_the_stage_is_left_out(
    tmp_path: Path, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """Progress of a finished task, of another stage, of a killed worker whose task is tried again, and half a record."""
    display = StageDisplay("pair", STAGE, 100, str(tmp_path))
    clock[0] += 1
    display.finish(0, Progress(10, 0, 1, 10), was_done=False)
    save_as_worker(tmp_path, 1, 0, Progress(9, 0, 1, 9))
    save_as_worker(tmp_path, 2, 1, Progress(99, 0, 99, 99), stage=STAGE + 1)
    save_as_worker(tmp_path, 3, 2, Progress(8, 0, 2, 8))
    save_as_worker(tmp_path, 4, 2, Progress(5, 0, 1, 5))
    (tmp_path / "5").write_bytes(b"half a record")
    assert line_of(display, capsys).endswith(" 3 documents, 18 tokens\n")
    assert line_of(display, capsys).startswith("pair  18% ")


def test_tasks_of_an_earlier_run_are_no_part_of_the_speed(
    tmp_path: Path, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    display = StageDisplay("pair", STAGE, 100, str(tmp_path), bytes_per_done=1e6)
    display.finish(0, Progress(40, 0, 4, 40), was_done=True)
    clock[0] += 20
    display.finish(1, Progress(20, 0, 2, 20), was_done=False)
    assert line_of(display, capsys) == "pair  60% 1.0 MB/s, 0:40 left, 6 documents, 60 tokens\n"
    display.finish(2, Progress(40, 0, 4, 40), was_done=False)
    assert line_of(display, capsys).startswith("pair 100% 3.0 MB/s, 0:20 elapsed")


def test_a_stage_that_was_all_done_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    display = StageDisplay("pair", STAGE, 40, str(tmp_path))
    display.finish(0, Progress(40, 0, 4, 40), was_done=True)
    assert line_of(display, capsys) == "pair 100% kept from an earlier run, 4 documents, 40 tokens\n"
    assert "100%" in line_of(StageDisplay("pair", STAGE, 0, None), capsys), "a stage without work is done"


def test_without_a_terminal_a_line_comes_now_and_then(
    tmp_path: Path, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    display = StageDisplay("tokenize", STAGE, 100, str(tmp_path))
    for _ in range(100):
        clock[0] += 0.5
        display.show()
    display.close()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5 + 1 and all(line.startswith("tokenize   0% ") for line in lines)


def test_on_a_terminal_a_bar_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    display = StageDisplay("tokenize", STAGE, 100, str(tmp_path), console=console)
    display.finish(0, Progress(25, 1000, 3, 10), was_done=False)
    display.close()
    assert "tokenize  25%" in screen.getvalue() and "3 documents, 10 tokens" in screen.getvalue()
    assert capsys.readouterr().err == ""


def test_a_process_that_is_no_worker_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prep.progress._folder", None)
    save_progress(STAGE, 0, Progress(1))
    monkeypatch.setattr("prep.progress._folder", tmp_path / "gone")
    save_progress(STAGE, 0, Progress(1))
    assert list(tmp_path.iterdir()) == []

"""Tasks that succeed, fail, or kill their worker, for the tests of all engines."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from prep.engines.engine import MAX_DEATHS, Engine, run_tasks
from prep.engines.open import open_engine
from shards.errors import UserError


@dataclass(frozen=True)
class MarkTask:
    """Marks each of its starts with a file, and kills its own worker during the first `deaths` of them."""

    number: int
    folder: str
    deaths: int = 0

    @property
    def name(self) -> str:
        return f"task {self.number}"


def work(task: MarkTask) -> int:
    marks = list(Path(task.folder).glob(f"{task.number}-*"))
    Path(task.folder, f"{task.number}-{len(marks)}").touch()
    if len(marks) < task.deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return task.number * 10


def fail(task: MarkTask) -> int:
    raise UserError(f"no luck with {task.name}")


def process_ids(task: MarkTask) -> tuple[int, int]:
    return os.getpid(), os.getppid()


def results_of(engine: str, tasks: Sequence[MarkTask], workers: int = 2) -> dict[int, int]:
    with open_engine(engine, workers) as opened_engine:
        return {task.number: result for task, result in run_tasks(opened_engine, work, tasks)}


def check_tasks(engine: Engine, tasks: list[MarkTask], folder: Path) -> None:
    """Results come, a task's own error arrives as it is, and one that always kills its worker is named."""
    results = {task.number: result for task, result in run_tasks(engine, work, tasks)}
    assert results == {task.number: task.number * 10 for task in tasks}
    with pytest.raises(UserError, match=r"^no luck with task 7$"):
        list(run_tasks(engine, fail, [MarkTask(7, "")]))
    with pytest.raises(UserError, match=f"task 8: its worker process died {MAX_DEATHS} times"):
        list(run_tasks(engine, work, [MarkTask(8, str(folder), deaths=99)]))

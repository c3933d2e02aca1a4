import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from prep.engines.local import MAX_DEATHS, LocalExecutor, run_tasks
from shards.errors import UserError


@dataclass(frozen=True)
class Sleep:
    """A task that marks its start in a file, and may kill its own worker the first times."""

    number: int
    folder: str
    deaths: int = 0

    @property
    def name(self) -> str:
        return f"task {self.number}"


def work(task: Sleep) -> int:
    marks = list(Path(task.folder).glob(f"{task.number}-*"))
    Path(task.folder, f"{task.number}-{len(marks)}").touch()
    if len(marks) < task.deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return task.number * 10


def fail(task: Sleep) -> int:
    raise UserError(f"no luck with {task.name}")


def where(task: Sleep) -> tuple[int, int]:
    return os.getpid(), os.getppid()


def test_every_task_gives_its_result_although_workers_die(tmp_path: Path) -> None:
    tasks = [Sleep(n, str(tmp_path), deaths=MAX_DEATHS - 1 if n in (2, 5) else 0) for n in range(8)]
    (tmp_path / "progress").mkdir()
    with LocalExecutor(2, str(tmp_path / "progress")) as executor:
        results = {task.number: result for task, result in run_tasks(executor, work, tasks, lambda: 2)}
    assert results == {n: n * 10 for n in range(8)}
    assert len(list(tmp_path.glob("2-*"))) == MAX_DEATHS
    assert all(len(list(tmp_path.glob(f"{n}-*"))) == 1 for n in (0, 1, 3, 4, 6, 7)), "a healthy task ran twice"


def test_a_task_that_keeps_dying_is_named(tmp_path: Path) -> None:
    tasks = [Sleep(n, str(tmp_path), deaths=99 if n == 1 else 0) for n in range(3)]
    with pytest.raises(UserError, match="task 1: its worker process died 3 times"), LocalExecutor(2, str(tmp_path)) as executor:
        list(run_tasks(executor, work, tasks, lambda: 2))


def test_an_error_of_a_task_ends_the_run_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no luck with task 0"), LocalExecutor(1, str(tmp_path)) as executor:
        list(run_tasks(executor, fail, [Sleep(0, "")], lambda: 1))


def test_any_executor_will_do(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as executor:
        found = dict(run_tasks(executor, work, [Sleep(n, str(tmp_path)) for n in range(5)], lambda: 3))
    assert sorted(found.values()) == [0, 10, 20, 30, 40]


def test_workers_are_processes_of_their_own_and_end_with_the_executor(tmp_path: Path) -> None:
    with LocalExecutor(2, str(tmp_path)) as executor:
        pids = {result for _, result in run_tasks(executor, where, [Sleep(n, "") for n in range(6)], lambda: 2)}
    assert len(pids) == 2 and {parent for _, parent in pids} == {os.getpid()}
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid, _ in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)

import multiprocessing
import os
import time
from pathlib import Path

import pytest
from commands import HANG_S
from engine_tasks import MarkTask, fail, process_ids, work

from prep.engines.engine import MAX_DEATHS, run_tasks
from prep.engines.open import open_engine
from shards.errors import UserError


def test_every_task_gives_its_result_although_workers_die(tmp_path: Path) -> None:
    tasks = [MarkTask(n, str(tmp_path), deaths=MAX_DEATHS - 1 if n in (2, 5) else 0) for n in range(8)]
    with open_engine("local", 2) as engine:
        results = {task.number: result for task, result in run_tasks(engine, work, tasks)}
    assert results == {n: n * 10 for n in range(8)}
    assert len(list(tmp_path.glob("2-*"))) == MAX_DEATHS
    assert all(len(list(tmp_path.glob(f"{n}-*"))) == 1 for n in (0, 1, 3, 4, 6, 7)), "a healthy task ran twice"


def test_a_task_that_keeps_dying_is_named(tmp_path: Path) -> None:
    tasks = [MarkTask(n, str(tmp_path), deaths=99 if n == 1 else 0) for n in range(3)]
    with (
        pytest.raises(UserError, match="task 1: its worker process died 3 times"),
        open_engine("local", 2) as engine,
    ):
        list(run_tasks(engine, work, tasks))


def test_an_error_of_a_task_ends_the_run_as_it_is_and_ends_no_process_of_others(tmp_path: Path) -> None:
    sibling = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    sibling.start()
    try:
        with (
            pytest.raises(UserError, match="no luck with task 0"),
            open_engine("local", 1) as engine,
        ):
            list(run_tasks(engine, fail, [MarkTask(0, "")]))
        sibling.join(0.5)
        assert sibling.is_alive(), "a child of the caller's own was killed with the workers"
    finally:
        sibling.kill()
        sibling.join()
        sibling.close()


def test_workers_are_processes_of_their_own_and_end_with_the_executor(tmp_path: Path) -> None:
    with open_engine("local", 2) as engine:
        pids = {result for _, result in run_tasks(engine, process_ids, [MarkTask(n, "") for n in range(6)])}
    assert len(pids) == 2 and {parent for _, parent in pids} == {os.getpid()}
    deadline = time.monotonic() + HANG_S
    while any(Path(f"/proc/{pid}").exists() for pid, _ in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)

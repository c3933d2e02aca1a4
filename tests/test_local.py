import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from commands import HANG_S, ROOT
from engine_tasks import MarkTask, fail, process_ids, work

from prep.engines.engine import MAX_DEATHS, run_tasks
from prep.engines.local import LocalExecutor
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
    parents = {parent for _, parent in pids}
    assert len(pids) == 2 and len(parents) == 1 and os.getpid() not in {pid for pid, _ in pids}
    server = Path(f"/proc/{parents.pop()}/stat").read_text().rpartition(")")[2].split()
    assert int(server[1]) == os.getpid(), "workers are forked by a child of this process"
    deadline = time.monotonic() + HANG_S
    while any(Path(f"/proc/{pid}").exists() for pid, _ in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_have_the_environment_and_the_folder_of_their_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("one", "two"):
        (tmp_path / value).mkdir()
        monkeypatch.setenv("BERT_SHARDS_TEST", value)
        monkeypatch.chdir(tmp_path / value)
        with open_engine("local", 1) as engine:
            place = engine.executor.submit(eval, "__import__('os').environ['BERT_SHARDS_TEST'], __import__('os').getcwd()")
            assert place.result() == (value, str(tmp_path / value))


IN_A_FOLDER_OF_OTHERS = """
import bert_shards
from prep.engines import forks
from prep.engines.open import open_engine
if __name__ == "__main__":
    forks.start()
    with open_engine("local", 1) as engine:
        files = "[m.__file__ for n, m in __import__('sys').modules.items() if n[:4] == 'prep']"
        print(engine.executor.submit(eval, files).result())
"""


def test_workers_load_the_packages_of_their_parent_and_not_those_of_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "prep.py").write_text("raise SystemExit('the wrong prep')")
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    (tmp_path / "elsewhere").mkdir()
    script = tmp_path / "elsewhere" / "script.py"
    script.write_text(IN_A_FOLDER_OF_OTHERS)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    files = eval(done.stdout)
    assert str(ROOT / "prep" / "pairing" / "pair.py") in files, "the workers were not forked from a loaded process"
    assert all(Path(file).is_relative_to(ROOT / "prep") for file in files)


def test_a_task_is_run_although_the_process_that_workers_are_forked_from_is_just_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers in a row cannot be forked; the third can."""
    failures = [EOFError("the server ends"), ConnectionRefusedError("the server ended")]
    submit = ProcessPoolExecutor.submit

    def often_broken(pool: ProcessPoolExecutor, *task: Any) -> Any:
        if failures:
            raise failures.pop()
        return submit(pool, *task)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", often_broken)
    with LocalExecutor(1, str(tmp_path)) as executor:
        assert executor.submit(pow, 2, 3).result() == 8 and not failures


def test_all_processes_are_prepared_once(tmp_path: Path) -> None:
    places = tmp_path / "places"
    places.mkdir()
    with LocalExecutor(3, str(tmp_path)) as executor:
        executor.prepare(mkdtemp, "", "", str(places))
        assert [executor.submit(pow, 2, i).result() for i in range(6)] == [1, 2, 4, 8, 16, 32]
    assert len(list(places.iterdir())) == 3


def test_workers_that_die_while_they_prepare_are_replaced(tmp_path: Path) -> None:
    tasks = [MarkTask(n, str(tmp_path), deaths=0) for n in range(4)]
    with open_engine("local", 2) as engine:
        engine.prepare(os._exit, 1)
        assert {task.number: result for task, result in run_tasks(engine, work, tasks)} == {n: n * 10 for n in range(4)}

"""Engines other than the local one, each with tasks that succeed, fail and kill their worker."""

import gc
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from commands import ROOT, manifest_of
from conftest import BuildRunner
from test_engine import Sleep, fail, work

from prep.engines import on_dask
from prep.engines.adapter import Engine, run_at_worker, window_of
from prep.engines.local import MAX_DEATHS, run_tasks
from prep.engines.open import open_engine
from shards.errors import UserError


def results(engine: str, tasks: Sequence[Sleep], workers: int = 2) -> dict[int, int]:
    with open_engine(engine, workers, "") as opened_engine:
        return {task.number: result for task, result in run_tasks(opened_engine.executor, work, tasks, opened_engine.window)}


@pytest.mark.parametrize("engine", ["executors:threads", "executors:processes"])
def test_an_executor_of_the_users_runs_all_tasks(engine: str, tmp_path: Path) -> None:
    assert results(engine, [Sleep(n, str(tmp_path)) for n in range(7)]) == {n: n * 10 for n in range(7)}


def test_an_executor_that_breaks_is_made_anew(tmp_path: Path) -> None:
    tasks = [Sleep(n, str(tmp_path), deaths=MAX_DEATHS - 1 if n == 3 else 0) for n in range(5)]
    assert results("executors:processes", tasks, workers=1) == {n: n * 10 for n in range(5)}


def test_whoever_kills_every_executor_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"task 0: its worker process died {MAX_DEATHS} times"):
        results("executors:processes", [Sleep(0, str(tmp_path), deaths=99)], workers=1)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (
            "nosuchmodule:factory",
            "cannot be imported (No module named 'nosuchmodule'); give local, dask, ray or MODULE:FACTORY",
        ),
        ("executors:nosuch", "has no attribute 'nosuch'"),
        ("slurm", "cannot be imported"),
        ("local:4", "cannot be imported"),
        ("dask:", "cannot be imported"),
        ("", "cannot be imported"),
        ("executors:none_at_all", "returned None, must return an Executor"),
        ("socket:gethostname", "fails with TypeError"),
    ],
)
def test_what_is_no_engine_is_one_line(engine: str, message: str) -> None:
    with pytest.raises(UserError) as error, open_engine(engine, 1, ""):
        pass
    assert message in str(error.value) and f"--engine {engine}:" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("engine", "package"), [("dask", "distributed"), ("ray:here:1", "ray")])
def test_a_missing_package_names_its_extra(engine: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError) as error, open_engine(engine, 1, ""):
        pass
    assert f"the package {package} is missing; pip install '.[{engine.partition(':')[0]}]'" in str(error.value)


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """A client that could not connect ends its thread when it is collected, best not while the next client begins."""
    yield
    gc.collect()


@pytest.mark.usefixtures("nothing_left")
def test_an_address_where_nobody_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_dask, "CONNECT_S", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with (
            pytest.raises(UserError, match=f"--engine dask:{address}: nobody answers there"),
            open_engine(f"dask:{address}", 0, ""),
        ):
            pass


def check_tasks(engine: Engine, tasks: list[Sleep], folder: Path) -> None:
    """Results come, a task's own error arrives as it is, and one that always kills its worker is named."""
    found = {task.number: result for task, result in run_tasks(engine.executor, work, tasks, engine.window)}
    assert found == {task.number: task.number * 10 for task in tasks}
    with pytest.raises(UserError, match=r"^no luck with task 7$"):
        list(run_tasks(engine.executor, fail, [Sleep(7, "")], engine.window))
    with pytest.raises(UserError, match=f"task 8: its worker process died {MAX_DEATHS} times"):
        list(run_tasks(engine.executor, work, [Sleep(8, str(folder), deaths=99)], engine.window))


def test_dask_on_this_machine(tmp_path: Path) -> None:
    with open_engine("dask", 2, "") as engine:
        assert engine.window() >= 2
        check_tasks(engine, [Sleep(n, str(tmp_path)) for n in range(6)], tmp_path)


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not among the development tools, for its size")
def test_ray_on_this_machine(tmp_path: Path, build: BuildRunner, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        open_engine("ray", 1, "") as engine,
        pytest.raises(UserError, match="No module named 'test_engine'; install this project"),
    ):
        list(run_tasks(engine.executor, work, [Sleep(0, str(tmp_path))], engine.window))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    with open_engine("ray", 2, "") as engine:
        check_tasks(engine, [Sleep(n, str(tmp_path), deaths=int(n == 1)) for n in range(6)], tmp_path)
    assert manifest_of(build(corpus, "--engine", "ray", name="ray")) == manifest_of(build(corpus, name="local"))


def test_a_worker_of_other_versions_refuses() -> None:
    with pytest.raises(UserError, match=r"has other versions \(sentencex .* than this process \(1, 2\); install the same"):
        run_at_worker((1, 2), work, Sleep(0, ""))


def test_the_window_follows_the_cluster(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("prep.engines.adapter._COUNT_EVERY_S", -1.0)
    counts = iter([0, 0, 3, 50])
    window = window_of("dask:there", 0, lambda: next(counts))
    assert [window() for _ in range(5)] == [2, 2, 6, 100, 100]  # in the end nobody answers
    assert capsys.readouterr().err == "--engine dask:there: has no workers now; waiting for some\n"
    assert window_of("dask:there", 7, lambda: 50)() == 7


ODD = """
import sys
from concurrent.futures import Future, ThreadPoolExecutor


class Old(ThreadPoolExecutor):
    def shutdown(self, wait=True):
        super().shutdown(wait=wait)


class Nothing(ThreadPoolExecutor):
    def submit(self, *task):
        return None


class Cancels(ThreadPoolExecutor):
    def submit(self, *task):
        future = Future()
        future.cancel()
        future.set_running_or_notify_cancel()
        return future


def shut(workers):
    executor = ThreadPoolExecutor(workers)
    executor.shutdown()
    return executor


def leaves(workers):
    sys.exit(0)
"""


@pytest.mark.parametrize("name", ["Old", "Nothing", "Cancels", "shut", "leaves"])
def test_odd_executors_of_ones_own_end_in_one_line(
    name: str, corpus: Path, vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd.py").write_text(ODD)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    places = ("--corpus", corpus, "--out", tmp_path / "out", "--scratch", tmp_path / "scratch", "--tokenizer", vocabulary)
    command = [sys.executable, "-m", "prep", "build", *map(str, places), "--engine", f"odd:{name}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    if name == "Old":
        assert done.returncode == 0 and (tmp_path / "out" / "manifest.json").exists()
    else:
        assert done.returncode == 2 and f"--engine odd:{name}" in done.stderr.splitlines()[-1], done.stderr

"""`--engine` as users give it: executors of their own, and what is no engine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from engine_tasks import MarkTask, results_of

from prep.engines.engine import MAX_DEATHS
from prep.engines.open import open_engine
from shards.errors import UserError


@pytest.mark.parametrize("engine", ["executors:threads", "executors:processes"])
def test_an_executor_of_the_users_runs_all_tasks(engine: str, tmp_path: Path) -> None:
    assert results_of(engine, [MarkTask(n, str(tmp_path)) for n in range(7)]) == {n: n * 10 for n in range(7)}


def test_an_executor_that_breaks_is_made_anew(tmp_path: Path) -> None:
    tasks = [MarkTask(n, str(tmp_path), deaths=MAX_DEATHS - 1 if n == 3 else 0) for n in range(5)]
    assert results_of("executors:processes", tasks, workers=1) == {n: n * 10 for n in range(5)}


def test_whoever_kills_every_executor_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"task 0: its worker process died {MAX_DEATHS} times"):
        results_of("executors:processes", [MarkTask(0, str(tmp_path), deaths=99)], workers=1)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (
            "nosuchmodule:factory",
            "cannot be imported (No module named 'nosuchmodule'); use local, dask, ray or MODULE:FACTORY",
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
    with pytest.raises(UserError) as error, open_engine(engine, 1):
        pass
    assert message in str(error.value) and f"--engine {engine}:" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("engine", "package"), [("dask", "distributed"), ("ray:here:1", "ray")])
def test_a_missing_package_names_its_extra(engine: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError) as error, open_engine(engine, 1):
        pass
    assert f"the package {package} is missing; pip install '.[{engine.partition(':')[0]}]'" in str(error.value)


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

"""Builds through Ray, on a real cluster of a head node and its worker processes; killed and finished again."""

import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import HANG_S, ROOT, manifest_of, run_prep

pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")
ARGUMENTS = ("--copies", 4, "--shard-bytes", "200KB")


class Cluster:
    """A head node with two workers. Its processes are the descendants of one that the test starts, and end with it."""

    def __init__(self, folder: Path) -> None:
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
        }
        self._folder = folder
        self._head: subprocess.Popen[bytes] | None = None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing; Ray listens on the address that leads out
            host = probe.getsockname()[0]
        with socket.socket() as probe:
            probe.bind(("", 0))
            self.address = f"{host}:{probe.getsockname()[1]}"

    def start(self) -> None:
        self.stop()
        flags = ("--port", self.address.rpartition(":")[2], "--num-cpus", "2", "--include-dashboard=false")
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", *flags, "--disable-usage-stats", "--block"]
        with open(self._folder / "log.txt", "ab") as log:
            self._head = subprocess.Popen(
                [*command, "--temp-dir", str(self._folder)], cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )
        self._wait_for(lambda: "Ray runtime started" in (self._folder / "log.txt").read_text())

    def _wait_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + HANG_S
        while not condition():
            assert self._head is not None and self._head.poll() is None, (self._folder / "log.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def busy_workers(self) -> list[Any]:
        """The processes that run a task now."""
        return [process for process in self._processes() if _title(process).startswith("ray::run_at_worker")]

    def _processes(self) -> list[Any]:
        return psutil.Process(self._head.pid).children(recursive=True) if self._head and self._head.poll() is None else []

    def stop(self) -> None:
        """Kills all of its processes."""
        processes = self._processes()
        if self._head is not None:
            self._head.kill()
            self._head.wait()
        for process in processes:
            process.kill()
        psutil.wait_procs(processes)
        (self._folder / "log.txt").write_text("")


def _title(process: Any) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are too long for the names of Ray's sockets
        made = Cluster(Path(folder))
        made.start()
        yield made
        made.stop()


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + HANG_S
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)


@pytest.mark.long
def test_a_build_through_ray_survives_its_workers_and_its_head(
    cluster: Cluster, tmp_path: Path, corpus: Path, vocabulary: Path
) -> None:
    """A worker is killed in its task, the head node while shards are made; the same command ends on a new cluster."""
    places = ("--corpus", corpus, "--out", tmp_path / "local", "--scratch", tmp_path / "other")
    local = run_prep("build", *places, "--tokenizer", vocabulary, "--workers", 1, *ARGUMENTS)
    assert local.returncode == 0, local.stderr
    places = ("--corpus", corpus, "--out", tmp_path / "out", "--scratch", tmp_path / "scratch")
    flags = (*places, "--tokenizer", vocabulary, *ARGUMENTS, "--engine", f"ray:{cluster.address}")
    run = [sys.executable, "-m", "prep", "build", *map(str, flags)]
    running = subprocess.Popen(
        run, cwd=ROOT, env=cluster.environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    busy: list[Any] = []
    wait_for(lambda: busy.extend(cluster.busy_workers()) or busy, running)
    busy[0].kill()
    wait_for(lambda: list((tmp_path / "out" / "_build").glob("*/pair-*.json")), running)
    cluster.stop()
    _, errors = running.communicate(timeout=HANG_S)
    lines = [line for line in errors.splitlines() if not re.match(r"tokenize|pair|.*\(raylet\)", line)]
    assert running.returncode == 2 and len(lines) == 1 and "its head node is gone; finished tasks are kept" in lines[0], errors
    assert not (tmp_path / "out" / "manifest.json").exists()
    cluster.start()
    again = subprocess.run(run, cwd=ROOT, env=cluster.environment, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert again.returncode == 0 and "tokenize 100% kept from an earlier run" in again.stderr, again.stderr
    assert manifest_of(tmp_path / "out") == manifest_of(tmp_path / "local")

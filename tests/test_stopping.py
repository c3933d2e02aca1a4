"""How processes of a run end: at once while they start, and never without their launcher."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from commands import HANG_S, ROOT
from launch import SMALL, torchrun, workers

from train.stopping import StopRequest, _launcher_is_gone

LIMIT_S = 120  # for every process to be gone; far more than a signal takes


def started(random_data: Path, out: Path, ranks: int) -> tuple["subprocess.Popen[str]", list[psutil.Process]]:
    """A torchrun, and its ranks as soon as all of them exist."""
    launcher = torchrun(ranks, "--data", random_data, "--out", out, "--model", "tiny", *SMALL, "--epochs", 4000)
    while len(found := workers(launcher)) < ranks:
        assert launcher.poll() is None
        time.sleep(0.005)
    return launcher, found


def kill_launcher(random_data: Path, out: Path, ranks: int, after_s: float) -> None:
    launcher, orphans = started(random_data, out, ranks)
    time.sleep(after_s)
    launcher.kill()
    _, alive = psutil.wait_procs(orphans, timeout=LIMIT_S)
    for process in alive:
        process.kill()
    launcher.communicate(timeout=HANG_S)
    assert not alive, f"{len(alive)} of {ranks} ranks outlived their launcher, killed {after_s} s after they began"


@pytest.mark.parametrize(("ranks", "after_s"), [(2, 0.0), (3, 1.0), (1, 0.1)])
def test_ranks_do_not_outlive_a_launcher_that_is_killed_while_they_start(
    ranks: int, after_s: float, random_data: Path, tmp_path: Path
) -> None:
    kill_launcher(random_data, tmp_path / "run", ranks, after_s)


@pytest.mark.long
@pytest.mark.parametrize("number", range(20))
def test_ranks_do_not_outlive_a_launcher_that_is_killed_in_its_first_seconds(
    number: int, random_data: Path, tmp_path: Path
) -> None:
    kill_launcher(random_data, tmp_path / "run", 1 + number % 3, number * 0.2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_process_at_once_while_it_waits_for_other_ranks(number: int, random_data: Path, tmp_path: Path) -> None:
    """Rank 1 of 2, whose rank 0 never comes: it waits in torch, where no handler of Python would run."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    environment = os.environ | place | {"MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "train", "--data", str(random_data), "--out", str(tmp_path / "run"), "--epochs", "1"]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
    listening = psutil.Process(process.pid)
    while not any("libtorch" in part.path for part in listening.memory_maps()):  # it has come as far as importing torch
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1.0)  # and perhaps as far as the wait; whether or not, the end must be the same
    process.send_signal(number)
    assert process.wait(timeout=LIMIT_S) == -number


def test_a_launcher_is_gone_when_nobody_listens_where_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with socket.socket() as store:
        store.bind(("127.0.0.1", 0))
        store.listen()
        monkeypatch.setenv("MASTER_PORT", str(store.getsockname()[1]))
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
        assert not _launcher_is_gone()
    assert _launcher_is_gone()
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    assert not _launcher_is_gone(), "rank 0 holds the store, and may not have begun"


def test_signals_are_requests_once_they_are_listened_to() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        stop = StopRequest()
        stop.listen()
        assert not stop.is_requested
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

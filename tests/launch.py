"""Runs of the trainer: in this process, as ranks that are real processes, or under torchrun; and what they leave."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import warm
from commands import HANG_S, ROOT, call
from servers import free_port

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
SMALL = ("--global-batch", 12, "--micro-batch", 3, "--lr", 1e-3, "--log-every", 1, "--eval-every", 0)


def tiny(data: Path, out: Path, epochs: int = 4, every: int = 2) -> tuple[object, ...]:
    model = ("--data", data, "--out", out, "--model", "tiny", "--epochs", epochs)
    return (*model, *SMALL, "--dropout", 0.1, "--checkpoint-every", every)


def torchrun(ranks: int, *arguments: object, restarts: int = 0, module: str = "train") -> subprocess.Popen[str]:
    """A run of `ranks` processes, started as users start one."""
    launcher = [*TORCHRUN, "--nproc-per-node", str(ranks), "--max-restarts", str(restarts)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [*launcher, "-m", module, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )


class RankProcesses:
    """The ranks of a run as torchrun would start them, in processes that need not import torch first."""

    def __init__(self, ranks: int, *arguments: object, module: str = "train", cwd: Path = ROOT) -> None:
        start = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
        environment = os.environ | start | {"LOCAL_WORLD_SIZE": str(ranks)}
        self.ranks = [
            warm.start(module, *arguments, cwd=cwd, env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(ranks)
        ]

    def poll(self) -> int | None:
        """0 when all have ended well, the exit code of one that has not, or None while one is at work."""
        codes = [rank.poll() for rank in self.ranks]
        return None if None in codes else next(filter(None, codes), 0)

    def communicate(self) -> tuple[str, str]:
        """Waits for all; their standard output and error, in the order of the ranks.

        If one was killed, it ends the others as torchrun does: it asks, and then kills.
        """
        while self.poll() is None and not self._killed():
            time.sleep(0.01)
        if self._killed():
            for number, wait_s in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 0.0)):
                for rank in self.ranks:
                    rank.send_signal(number)
                end = time.monotonic() + wait_s
                while None in [rank.poll() for rank in self.ranks] and time.monotonic() < end:
                    time.sleep(0.01)
        with ThreadPoolExecutor(len(self.ranks)) as threads:
            texts = list(threads.map(lambda rank: rank.communicate(HANG_S), self.ranks))
        return "".join(out for out, _ in texts), "".join(err for _, err in texts)

    def _killed(self) -> bool:
        return any((rank.poll() or 0) < 0 for rank in self.ranks)


def run(ranks: int, *arguments: object, module: str = "train") -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a whole run; with 0 processes it is in this one."""
    if not ranks:
        done = call("train.__main__" if module == "train" else module, arguments)
        return done.returncode, done.stdout, done.stderr
    return run_ranks(ranks, *arguments, module=module)


def run_ranks(ranks: int, *arguments: object, module: str = "train", cwd: Path = ROOT) -> tuple[int, str, str]:
    """The same in processes of its own."""
    processes = RankProcesses(ranks, *arguments, module=module, cwd=cwd)
    out, err = processes.communicate()
    return processes.poll() or 0, out, err


def refused(*arguments: object, ranks: int = 0, module: str = "train") -> str:
    """The one line of a run that ends with exit code 2 (torchrun: 1) and without a traceback of ours."""
    code, _, err = run(ranks, *arguments, module=module)
    lines = [line for line in err.splitlines() if line.startswith(f"{module}: error: ")]
    assert code == 2 and len(lines) == 1 and "Traceback" not in err, err
    assert ranks or err.splitlines()[-1] == lines[0]
    return lines[0]


def copied(data: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of a data set, and the path of one of its shards."""
    shutil.copytree(data, tmp_path / "data")
    return tmp_path / "data", tmp_path / "data" / "train" / "000001-0000.parquet"


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The ranks of a torchrun, or none yet."""
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if "train" in _command(child)]
    return []


def _command(process: psutil.Process) -> list[str]:
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return process.cmdline()
    return []


def weights(out: Path, step: int) -> str:
    """A digest of the model after a step."""
    return hashlib.sha256((out / "checkpoints" / f"step-{step:010d}" / "model.safetensors").read_bytes()).hexdigest()


def metrics(out: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def row_log(folder: Path) -> dict[int, list[int]]:
    """Step -> rows in the order of its micro-batches; for each step the latest start holds."""
    steps: dict[int, tuple[str, list[int]]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        started = path.name.partition("-rank")[0]
        for step, rows in _lines(path):
            begun, before = steps.get(step, (started, []))
            steps[step] = (started, (before if begun == started else []) + rows)
    return {step: rows for step, (_, rows) in sorted(steps.items())}


def _lines(path: Path) -> Iterator[tuple[int, list[int]]]:
    for line in path.read_text().splitlines():
        value = json.loads(line)
        yield value["step"], value["rows"]

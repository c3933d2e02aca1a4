"""`python -m train` and torchrun in real processes, and what they leave."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from conftest import ROOT

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
SMALL = ("--global-batch", 12, "--micro-batch", 3, "--lr", 1e-3, "--log-every", 1, "--eval-every", 0)


def start(ranks: int, *arguments: object, restarts: int = 0, module: str = "train") -> subprocess.Popen[str]:
    """A run of so many processes: torchrun for any number, plain Python for 0."""
    launcher = [*TORCHRUN, "--nproc-per-node", str(ranks), "--max-restarts", str(restarts)] if ranks else [sys.executable]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*launcher, "-m", module, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )


def run(ranks: int, *arguments: object, module: str = "train", restarts: int = 0) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a whole run."""
    process = start(ranks, *arguments, module=module, restarts=restarts)
    out, err = process.communicate(timeout=280)
    return process.returncode, out, err


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The ranks of a run, or none yet."""
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if "train" in _command(child)]
    return []


def _command(process: psutil.Process) -> list[str]:
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return process.cmdline()
    return []


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the launcher and every rank."""
    victims = workers(process)
    process.kill()
    for victim in victims:
        with suppress(psutil.NoSuchProcess):
            victim.kill()
    psutil.wait_procs(victims, timeout=60)
    process.communicate(timeout=60)


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

"""The command on each device: killed, started again, and what is left is what an undisturbed run leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
HANG_S = 600


def num_steps(device: torch.device) -> int:
    """Enough for a test to see the first of four checkpoints before the run ends."""
    return 800 if device.type == "cuda" else 12


def start(data: str, out: Path, device: torch.device) -> subprocess.Popen[str]:
    flags = {
        "--data": data,
        "--out": out,
        "--model": "tiny",
        "--global-batch": 8,
        "--micro-batch": 4,
        "--steps": num_steps(device),
        "--checkpoint-every": num_steps(device) // 4,
        "--log-every": num_steps(device) // 12,
        "--row-log": out / "rows",
    }
    command = [sys.executable, "-m", "train", *(str(part) for flag in flags.items() for part in flag)]
    hidden = {} if device.type == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | hidden, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    _, err = process.communicate(timeout=HANG_S)
    assert process.returncode == 0, err
    return err


def metrics(out: Path, kind: str) -> list[dict[str, float]]:
    values = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [value for value in values if value["kind"] == kind]


def served(out: Path) -> dict[int, list[int]]:
    """Step -> rows; of a step that was repeated, those of the later start."""
    lines = (json.loads(line) for path in sorted((out / "rows").glob("*.jsonl")) for line in path.read_text().splitlines())
    return {line["step"]: line["rows"] for line in lines}


def test_a_killed_run_ends_as_an_undisturbed_one(slow_device: torch.device, data: str, tmp_path: Path) -> None:
    """Bit for bit on a CPU; on a GPU some sums have no fixed order."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(data, whole, slow_device))
    process = start(data, killed, slow_device)
    deadline = time.monotonic() + HANG_S
    while not list(killed.glob("checkpoints/step-*/training.json")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was killed before its end"
    finish(start(data, killed, slow_device))
    steps = num_steps(slow_device)
    assert served(killed) == served(whole) and sorted(served(whole)) == list(range(steps))
    if slow_device.type == "cpu":
        one, two = (load_file(out / "checkpoints" / f"step-{steps:010d}" / "model.safetensors") for out in (whole, killed))
        assert one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert [line["step"] for line in metrics(killed, "train")] == [line["step"] for line in metrics(whole, "train")]
    losses = [metrics(out, "eval")[-1]["mlm_loss"] for out in (whole, killed)]
    assert losses[1] == pytest.approx(losses[0], abs=0.05)

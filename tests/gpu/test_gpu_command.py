"""The command on each device: killed, started again, and what is left is what an undisturbed run leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
STEPS, EVERY = 12, 3
HANG_S = 600


def start(data: str, out: Path, device: torch.device) -> subprocess.Popen[str]:
    flags = {
        "--data": data,
        "--out": out,
        "--model": "tiny",
        "--global-batch": 8,
        "--micro-batch": 4,
        "--steps": STEPS,
        "--checkpoint-every": EVERY,
        "--log-every": 1,
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
    """On a GPU the weights are equal within what sums without a fixed order change."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(data, whole, slow_device))
    process = start(data, killed, slow_device)
    deadline = time.monotonic() + HANG_S
    while not list(killed.glob("checkpoints/step-*/checkpoint.json")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    err = finish(start(data, killed, slow_device))
    assert "resum" in err or process.returncode == 0
    assert served(killed) == served(whole) and sorted(served(whole)) == list(range(STEPS))
    one, two = (load_file(folder / "checkpoints" / f"step-{STEPS:010d}" / "model.safetensors") for folder in (whole, killed))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=0 if slow_device.type == "cpu" else 1e-3)
    assert [line["step"] for line in metrics(killed, "train")] == list(range(1, STEPS + 1))
    assert metrics(killed, "eval")[-1]["mlm_loss"] > 0

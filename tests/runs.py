"""Folders of runs written without training, for tests of what reads them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def train_line(step: int, **values: Any) -> dict[str, Any]:
    basic = {
        "loss": 8.0 * math.exp(-step / 100) + 2.0,
        "mlm_loss": 8.0 * math.exp(-step / 100) + 1.4,
        "nsp_loss": 0.6,
        "lr": 1e-4,
        "grad_norm": 0.7,
        "tokens_per_s": 20_000.0,
        "padding_share": 0.01,
        "data_wait_share": 0.01,
        "mfu": None,
        "skipped": 0,
    }
    return {"kind": "train", "step": step, "time": 1000.0 + step} | basic | values


def eval_line(step: int, **values: Any) -> dict[str, Any]:
    basic = {
        "mlm_loss": 8.0 * math.exp(-step / 100) + 1.6,
        "perplexity": 7.0,
        "mlm_accuracy": 0.5,
        "unigram_loss": 6.5,
        "nsp_loss": 0.5,
        "nsp_accuracy": 0.8,
        "majority_share": 0.55,
    }
    return {"kind": "eval", "step": step, "time": 1001.0 + step} | basic | values


def start_line(step: int, world_size: int = 2, steps: int = 100) -> dict[str, Any]:
    return {"kind": "start", "step": step, "time": 1000.0 + step, "steps": steps, "world_size": world_size, "device": "cpu"}


def write_run(folder: Path, lines: Sequence[dict[str, Any]] = (), **settings: Any) -> Path:
    """A run of 100 steps, finished, unless `lines` are given."""
    if not lines:
        middle = [train_line(step) for step in range(10, 101, 10)]
        lines = [start_line(0), *middle, eval_line(100), {"kind": "end", "step": 100, "time": 1101.0}]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    basic = {"model": "tiny", "data": "data/demo", "out": str(folder), "global_batch": 16, "lr": 1e-4}
    (folder / "run.json").write_text(json.dumps({"settings": basic | settings}))
    return folder

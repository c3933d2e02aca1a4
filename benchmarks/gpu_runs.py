"""How benchmarks.gpu measures one line: the trainer's own loop, transformers' padded model, or the command itself.

ours          the modules of `train.start` and `train.loop.Trainer`, as `python -m train` runs them; without checkpoints
              and scores. Speed and MFU are those of its own lines of metrics.
transformers  `BertForPreTraining` on the same rows, each sequence padded, bf16 autocast, its own loss, fused AdamW. It has one
              and the same batch in every step, already on the device, so that its shapes never change: that favours it.
command       `python -m train` in a process of its own, with checkpoints.
"""

import gc
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from benchmarks.common import ROOT
from benchmarks.kernels import KernelProfile, Times
from shards.command.options import flag
from shards.manifest import Manifest
from train.data.batch import IGNORED
from train.loop import Trainer
from train.models.encoder import make_encoder
from train.ranks import Ranks, autocast, use_half
from train.row_log import RowLog
from train.settings import Settings
from train.start.join import join_ranks
from train.start.prepare import prepare
from train.step import Counts
from train.stopping import StopRequest
from train.stream import ShardStream
from train.throughput import peak_flops, step_flops

SEED, LR = 0, 1e-4
INTERVALS = 3  # that are measured, after one that is not
PROFILED_STEPS = 3
CHECKPOINT_EVERY = 2  # intervals, of the command


@dataclass(frozen=True)
class Line:
    """What is measured: who computes, which model, which rows, and which settings are not the defaults."""

    name: str
    how: str  # ours, transformers or command
    model: str = "base"
    longest: int = 128  # tokens of a sequence, at most
    rows: int = 128  # of a micro-batch; a step has one
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_quick: bool = False
    profiled: bool = False
    allocator: str = ""  # settings of torch's allocator


@dataclass(frozen=True)
class Place:
    """Where it is measured: the device, a data set by the length of its sequences, a folder, and steps of an interval."""

    device: torch.device
    data: Mapping[int, tuple[str, Manifest]]
    folder: Path
    steps: int


@dataclass
class Result:
    """What was measured. Speeds are real tokens per second, one for each interval."""

    speeds: list[float]
    mfu: float | None = None
    first_step_s: float | None = None
    peak_bytes: int = 0
    kernels: Times = field(default_factory=list)  # of all profiled steps
    profiled_tokens: float = 0.0  # of all profiled steps
    notes: list[str] = field(default_factory=list)


class Watch:
    """Follows a run step by step. It stands in for the trainer's Reporter."""

    def __init__(self, line: Line, place: Place) -> None:
        self.num_steps = (1 + INTERVALS) * place.steps + (PROFILED_STEPS if line.profiled else 0)
        self.lines: list[Mapping[str, Any]] = []
        self.notes: list[str] = []
        self.first_step_s: float | None = None
        self.kernels: Times = []
        self._device, self._measured = place.device, (1 + INTERVALS) * place.steps
        self._profile = KernelProfile(place.device) if line.profiled else None
        self._begun = time.perf_counter()
        self._num_allocations = 0

    def say(self, text: str) -> None:
        """A message of the trainer to its user."""
        if "warning" in text or "compil" in text or "graph" in text or "attention" in text:
            self.notes.append(text)

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """A line of metrics. The first one is of the warm-up, the last ones of profiled steps."""
        if kind == "train":
            self.lines.append(values)

    def checkpointed(self) -> None:
        """The trainer calls it after a checkpoint."""

    def show_step(self, num_done: int) -> None:
        """After each step. The device is waited for only where nothing is timed."""
        if num_done == 1:
            synchronize(self._device)
            self.first_step_s = time.perf_counter() - self._begun
        if num_done == self._measured // (1 + INTERVALS):
            self._num_allocations = _allocations(self._device)
        if num_done == self._measured:
            synchronize(self._device)
            self.notes += _state(self._device, self._num_allocations)
            if self._profile:
                self._profile.start()
        if self._profile and num_done == self.num_steps:
            synchronize(self._device)
            self.kernels = self._profile.stop()


class _TrainerWithoutOutput(Trainer):
    def _save(self, num_done: int) -> None:
        self.saved_step = num_done

    def _score(self, num_done: int) -> None:
        pass


def measure_ours(line: Line, place: Place) -> Result:
    """The trainer's own loop."""
    watch = Watch(line, place)
    url, _ = place.data[line.longest]
    settings = Settings(
        data=(url,),
        out=str(place.folder / "out"),
        model=line.model,
        global_batch=line.rows,
        micro_batch=line.rows,
        steps=watch.num_steps,
        log_every=place.steps,
        **line.settings,
    )
    run, messages = prepare([settings], Ranks(0, 1, place.device))
    messages += join_ranks(run)
    watch.notes += [text for text in messages if "attention" in text or "compil" in text]
    _TrainerWithoutOutput(run, watch, RowLog("", run.ranks), StopRequest()).train()  # type: ignore[arg-type]
    *_, last = watch.lines
    tokens = PROFILED_STEPS * line.rows * run.shape.tokens * (1.0 - last["padding_share"]) if watch.kernels else 0.0
    measured = watch.lines[1 : 1 + INTERVALS]
    mfus = [values["mfu"] for values in measured if values["mfu"] is not None]
    return Result(
        [values["tokens_per_s"] for values in measured],
        sum(mfus) / len(mfus) if mfus else None,
        watch.first_step_s,
        _peak_bytes(place.device),
        watch.kernels,
        tokens,
        watch.notes,
    )


def measure_padded(line: Line, place: Place) -> Result:
    """transformers' model, with `settings` compile and nothing else."""
    watch = Watch(line, place)
    url, manifest = place.data[line.longest]
    half = use_half("auto", place.device)
    model = make_encoder(line.model, manifest, url, 0.1, SEED)[0].to(place.device).train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=LR, fused=True)
    forward: Any = torch.compile(model) if line.settings.get("compile") else model
    batch, counts = _padded_batch(line, place)

    def step() -> None:
        with autocast(place.device, half):
            loss = forward(**batch).loss
        loss.backward()
        clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    for number, seconds in enumerate(_intervals(step, watch, place)):
        if number:
            watch.log("train", number, {"tokens_per_s": counts.tokens * place.steps / seconds})
    speeds = [values["tokens_per_s"] for values in watch.lines]
    peak = peak_flops(place.device, half)
    mfu = step_flops(model, counts) / counts.tokens * sum(speeds) / len(speeds) / peak if peak else None
    tokens = PROFILED_STEPS * counts.tokens if watch.kernels else 0
    return Result(speeds, mfu, watch.first_step_s, _peak_bytes(place.device), watch.kernels, tokens, watch.notes)


def _intervals(step: Callable[[], None], watch: Watch, place: Place) -> Iterator[float]:
    """The seconds of each interval of steps, the first one included; then the steps of the profile."""
    begun = time.perf_counter()
    for number in range(1, watch.num_steps + 1):
        step()
        if number % place.steps == 0 and number <= (1 + INTERVALS) * place.steps:
            synchronize(place.device)
            yield time.perf_counter() - begun
            begun = time.perf_counter()
        watch.show_step(number)


def _padded_batch(line: Line, place: Place) -> tuple[dict[str, torch.Tensor], Counts]:
    """The sequences of the first rows of the run, padded to the longest one of the data set, on the device."""
    url, _ = place.data[line.longest]
    batch: Any = next(iter(ShardStream(url, global_batch=line.rows, micro_batch=line.rows, seed=SEED)))
    lengths = batch["attention_mask"].sum(1)
    masked = int((batch["labels"] != IGNORED).sum())
    counts = Counts(int(lengths.sum()), masked, len(lengths), int((lengths * lengths).sum()))
    return {name: tensor.to(place.device) for name, tensor in batch.items()}, counts


def measure_command(line: Line, place: Place) -> Result:
    """The command, with a checkpoint every second interval. The speeds are of all intervals, from the first."""
    url, _ = place.data[line.longest]
    out = place.folder / "command"
    shutil.rmtree(out, ignore_errors=True)
    flags = {
        "--data": url,
        "--out": out,
        "--model": line.model,
        "--global-batch": line.rows,
        "--micro-batch": line.rows,
        "--steps": (2 + INTERVALS) * place.steps,
        "--log-every": place.steps,
        "--checkpoint-every": CHECKPOINT_EVERY * place.steps,
        "--eval-every": 0,
    } | {flag(name): value for name, value in line.settings.items()}
    command = [sys.executable, "-m", "train", *(str(word) for words in flags.items() for word in words)]
    hidden = {} if place.device.type == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    begun = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=os.environ | hidden, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise RuntimeError(f"the command ended with exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    values = [json.loads(text) for text in (out / "metrics.jsonl").read_text().splitlines()]
    lines = [value for value in values if value["kind"] == "train"]
    notes = ["each interval: " + ", ".join(f"{value['tokens_per_s']:,.0f}" for value in lines), f"{seconds:.0f} s in all"]
    notes += [text.strip() for text in done.stderr.splitlines() if text.startswith(("micro-batch:", "compiled", "attention:"))]
    mfus = [value["mfu"] for value in lines if value["mfu"] is not None]
    shutil.rmtree(out)
    return Result([value["tokens_per_s"] for value in lines], max(mfus, default=None), notes=notes)


MEASURES: Mapping[str, Callable[[Line, Place], Result]] = {
    "ours": measure_ours,
    "transformers": measure_padded,
    "command": measure_command,
}


def synchronize(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def clean_device(line: Line, device: torch.device) -> Iterator[None]:
    """For one line: no memory, no compiled code and no peak of the lines before it; the allocator as the line wants it."""
    try:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            if line.allocator:
                torch.cuda.memory._set_allocator_settings(line.allocator)
        yield
    finally:
        torch.compiler.reset()
        gc.collect()
        if device.type == "cuda":
            if line.allocator:
                torch.cuda.memory._set_allocator_settings(f"{line.allocator.partition(':')[0]}:False")
            torch.cuda.empty_cache()


def is_lost(device: torch.device) -> bool:
    """Whether the device no longer works for this process, as after an illegal access."""
    try:
        synchronize(device)
    except RuntimeError:
        return True
    return False


def _peak_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def _allocations(device: torch.device) -> int:
    """How often memory was asked of the driver, which waits for the device."""
    return int(torch.cuda.memory_stats(device).get("num_device_alloc", 0)) if device.type == "cuda" else 0


def _state(device: torch.device, num_allocations: int) -> list[str]:
    """What can slow a device down: memory asked of the driver while steps were measured, its clock and its power."""
    if device.type != "cuda":
        return []
    notes = []
    stats = torch.cuda.memory_stats(device)
    if more := _allocations(device) - num_allocations:
        notes.append(f"{more} allocations by the driver, {stats.get('num_alloc_retries', 0)} retries")
    with suppress(Exception):  # they need a package, and rights
        notes.append(f"{torch.cuda.clock_rate(device)} MHz, {torch.cuda.power_draw(device) / 1000:.0f} W")
    return notes

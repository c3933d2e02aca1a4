"""`--micro-batch`, where it is no number: the rows are settled once, at the first start of a run.

    checkpoint of the run -> its rows, on any device | auto -> the fastest, tried | else -> by the size of model and device

Rank 0 settles it for all. The number is written into checkpoints, so dropout is the same wherever the run continues.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from shards.errors import UserError
from train import checkpoint
from train.device.memory import default_rows, divisors, fastest_rows
from train.ranks import NO_MEMORY, Ranks
from train.recipe.changes import phases_of
from train.run import Run
from train.settings import AUTO_ROWS, Settings, default_micro_batch
from train.start.dry_run import largest_batch
from train.start.join import join_ranks
from train.start.prepare import prepare
from train.step import Counts, backward, update

_MOST_TOKENS = 2**17  # per micro-batch; no device gains from more
_USED_SHARE = 0.9  # of the device's memory; a run has more in it than a trial
_PASSES = 3  # per trial; the first one is not timed


def settle_all(recipe: Sequence[Settings], ranks: Ranks) -> tuple[list[Settings], list[str]]:
    """The settings of each phase with a number of rows, and messages for the user. Raises UserError, on every rank."""
    settled, messages = [], []
    for index, settings in enumerate(recipe):
        of_phase, lines = settle(settings, ranks, index)
        settled.append(of_phase)
        messages += [f"phase {index + 1}, {line}" if len(recipe) > 1 else line for line in lines]
    return settled, messages


def settle(settings: Settings, ranks: Ranks, phase: int = 0) -> tuple[Settings, list[str]]:
    """The settings of the phase with index `phase`, with a number of rows, and messages. Raises UserError, on every rank."""
    if settings.micro_batch > 0:
        return settings, []
    rows, messages = ranks.from_first(lambda: _settle(settings, ranks, phase))
    return replace(settings, micro_batch=rows), messages


def _settle(settings: Settings, ranks: Ranks, phase: int) -> tuple[int, list[str]]:
    saved = saved_rows(settings, phase)
    if saved is not None:
        return saved, [f"micro-batch: {saved} rows, as before"]
    if settings.micro_batch == AUTO_ROWS:
        rows = _measure(settings, ranks)
        return rows, [f"micro-batch: {rows} rows were the fastest"]
    if ranks.device.type != "cuda":
        return default_micro_batch(settings.common_batch), []
    run = _provisional(settings, ranks)
    _, memory = torch.cuda.mem_get_info(ranks.device)
    keeps_all = not settings.activation_checkpointing
    rows = default_rows(settings.common_batch, ranks.world_size, run.shape, run.encoder, memory, keeps_all)
    return rows, [f"micro-batch: {rows} rows"]


def saved_rows(settings: Settings, phase: int = 0) -> int | None:
    """The rows of a phase in the newest checkpoint, if they divide the batch."""
    newest = checkpoint.newest(settings.out, lambda saved: saved.record, lambda _: None)
    phases = phases_of(newest[1]) if newest else []
    rows = phases[phase]["settings"].get("micro_batch") if phase < len(phases) else None
    return rows if type(rows) is int and rows > 0 and settings.common_batch % rows == 0 else None


def _provisional(settings: Settings, ranks: Ranks) -> Run:
    """A run whose micro-batch is not the one to come, for its model and the shape of its rows."""
    rows = default_micro_batch(settings.common_batch)
    run, _ = prepare([replace(settings, micro_batch=rows, cache="", cache_bytes=0)], ranks)
    return run


def _measure(settings: Settings, ranks: Ranks) -> int:
    alone = Ranks(0, 1, ranks.device)
    run = _provisional(replace(settings, compile="off", cuda_graphs="off"), alone)
    join_ranks(run)
    most = min(settings.global_batch // ranks.world_size, _MOST_TOKENS // run.shape.tokens)
    candidates = [rows for rows in divisors(settings.common_batch) if rows <= max(1, most)]
    rows = fastest_rows(doubling(candidates), speed_of(run))
    if ranks.device.type == "cuda":
        del run
        torch.cuda.empty_cache()
    return rows


def doubling(candidates: list[int]) -> list[int]:
    """The first of ascending numbers, then those that are at least twice the one before, and the last."""
    chosen = candidates[:1]
    for rows in candidates[1:]:
        if rows >= 2 * chosen[-1]:
            chosen.append(rows)
    return chosen if chosen[-1] == candidates[-1] else [*chosen, candidates[-1]]


def speed_of(run: Run) -> Callable[[int], float | None]:
    """Measures tokens per second with a number of rows; None if they do not fit. The model is not usable afterwards."""

    def measure(rows: int) -> float | None:
        try:
            return _tokens_per_second(run, rows)
        except (RuntimeError, UserError) as error:
            if isinstance(error, torch.OutOfMemoryError | UserError) or NO_MEMORY in str(error):
                return None
            raise

    return measure


def _tokens_per_second(run: Run, rows: int) -> float | None:
    batch = largest_batch(run, replace(run.shape, rows=rows))
    counts = Counts(batch.tokens, batch.masked, batch.pairs, batch.attended)
    started = 0.0
    for number in range(_PASSES):
        losses = backward(run.model, [batch], [0], counts, run.autocast)
        update(run.encoder, run.optimizer, 0.0, run.settings.clip_norm)
        losses.sum().item()  # waits for the device
        started = started if number else time.perf_counter()
    if run.ranks.device.type == "cuda":
        _, memory = torch.cuda.mem_get_info(run.ranks.device)
        if torch.cuda.max_memory_allocated(run.ranks.device) > _USED_SHARE * memory:
            return None
    return (_PASSES - 1) * batch.tokens / (time.perf_counter() - started)

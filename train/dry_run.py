"""`--dry-run`: the plan of a run, and its largest micro-batch through forward, backward and the optimizer."""

import resource
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from shards.command.numbers import clock, short, size
from shards.schema import Rows, lengths_to_offsets
from train.data.batch import PackedBatch, pack_batch
from train.data.layout import Shape
from train.data.shard_uses import needed_bytes
from train.run import Run
from train.step import Counts, backward, update


def describe(run: Run) -> Iterator[str]:
    """The plan of the run."""
    total, settings = run.manifest.splits["train"].totals(), run.settings
    rows, steps = total["rows"], run.num_steps
    epochs = run.end / rows
    yield f"data: {rows:,} rows of up to {run.shape.tokens} tokens, {total['tokens']:,} tokens, masking {settings.masking}"
    yield (f"run: {steps:,} steps of {settings.global_batch} rows, {epochs:.2f} epochs, {epochs * total['tokens']:,.0f} tokens")
    yield (
        f"step: {run.order.num_micro_batches} micro-batches of {settings.micro_batch} rows, {_busiest(run)} on the busiest "
        f"of {run.ranks.world_size} processes; order: {run.order.lanes} lanes"
    )
    if run.cache is not None:
        needed = needed_bytes(run.manifest.splits["train"].shards, len(run.lanes()))
        yield (
            f"cache: {run.settings.cache}, up to {size(run.cache.limit)}; it needs room for two shards per lane "
            f"({len(run.lanes())} lanes, {size(needed)})"
        )
    parameters = sum(p.numel() for p in run.encoder.parameters())
    yield f"model: {parameters:,} parameters; a checkpoint has {size(12 * parameters)}, {settings.keep} are kept"
    precision, kernels = "bf16" if run.half else "fp32", run.encoder.config._attn_implementation
    yield f"device: {run.ranks.device}, {precision}, attention {kernels}, {'not compiled' if run.how == 'plain' else run.how}"


def _busiest(run: Run) -> int:
    """Micro-batches per step of the busiest rank, which is the first."""
    return len(run.order.micro_batches_of(0, run.ranks.world_size))


def largest_batch(run: Run, shape: Shape) -> PackedBatch:
    """A micro-batch with as many rows, tokens, sequences and masked tokens as the shape allows."""
    lengths = np.full(shape.sequences, shape.tokens // shape.sequences)
    lengths[: shape.tokens % shape.sequences] += 1
    lengths = np.tile(np.minimum(lengths, shape.longest), shape.rows).astype(np.uint16)
    sequence_offsets = np.arange(shape.rows + 1) * shape.sequences
    token_offsets = lengths_to_offsets(lengths)[sequence_offsets]
    masked = min(shape.masked, int(np.diff(token_offsets).min()))
    rows = Rows(
        token_offsets=token_offsets,
        sequence_offsets=sequence_offsets,
        input_ids=np.full(int(token_offsets[-1]), run.manifest.tokenizer["special_ids"]["cls"], np.uint32),
        sequence_lengths=lengths,
        segment_a_lengths=lengths,
        next_sentence_label=np.zeros(len(lengths), np.uint8),
        masked_offsets=np.arange(shape.rows + 1) * masked,
        masked_positions=np.tile(np.arange(masked), shape.rows).astype(np.uint16),
        masked_labels=np.zeros(masked * shape.rows, np.uint32),
    )
    return pack_batch(rows, shape, run.pad_id(), run.layout).to(run.ranks.device)


def _timed_step(run: Run, batch: PackedBatch) -> tuple[float, float]:
    """Forward, backward and update, twice: the first time includes compilation and allocation. The loss, and the seconds."""
    counts = Counts(batch.tokens, batch.masked, batch.pairs, batch.attended)
    for _ in range(2):
        started = time.perf_counter()
        losses = backward(run.model, [batch], [0], counts, run.autocast)
        update(run.encoder, run.optimizer, 0.0, run.settings.clip_norm, run.keeps_gradients)
        loss = float(losses.sum())  # waits for the device
        seconds = time.perf_counter() - started
    return loss, seconds


def rehearse(run: Run) -> Iterator[str]:
    """Runs the largest micro-batch and one of mean size, and reports time and memory. The model is not usable afterwards."""
    largest = largest_batch(run, run.shape)
    loss, longest_s = _timed_step(run, largest)
    yield f"largest micro-batch: {largest.tokens:,} tokens, {largest.pairs:,} sequences, loss {loss:.2f}, {longest_s:.2f} s"
    # Padded attention computes every sequence at full length, so a row of many short ones takes much longer than most rows do.
    mean = largest_batch(run, replace(run.shape, sequences=max(1, round(run.shape.mean_sequences))))
    _, mean_s = _timed_step(run, mean)
    yield f"mean micro-batch: {mean.tokens:,} tokens, {mean.pairs:,} sequences, {mean_s:.2f} s"
    about, most = (clock(seconds * _busiest(run) * run.num_steps) for seconds in (mean_s, max(mean_s, longest_s)))
    yield f"about {about} for all steps, at most {most}; about {short(mean.tokens / mean_s)} tokens/s per process"
    if run.ranks.device.type == "cuda":
        free, whole = torch.cuda.mem_get_info()
        yield f"memory: {size(torch.cuda.max_memory_allocated())} of {size(whole)} on the device at most, {size(free)} free"
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux
    yield f"memory: {size(resident)} resident at most, in this process"

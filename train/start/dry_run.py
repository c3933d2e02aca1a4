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
from train.data.order import part_of
from train.data.shard_uses import lanes_in_phase, needed_bytes
from train.recipe.phases import Phase
from train.run import Run
from train.start.join import warm_up
from train.step import Counts, backward, update


def describe(run: Run) -> Iterator[str]:
    """The plan of the run."""
    for phase in run.phases:
        prefix = f"phase {phase.number}, " if len(run.phases) > 1 else ""
        yield from (prefix + line for line in _describe_phase(run, phase))
    if len(run.phases) > 1:
        yield f"run: {run.num_steps:,} steps in {len(run.phases)} phases"
    parameters = sum(p.numel() for p in run.encoder.parameters())
    size_of_tensors = sum(tensor.nbytes for tensors in run.tensors().values() for tensor in tensors.values())
    yield f"model: {parameters:,} parameters; a checkpoint has {size(size_of_tensors)}, {run.settings.keep} are kept"
    precision, kernels = "bf16" if run.half else "fp32", run.encoder.config._attn_implementation
    yield f"device: {run.ranks.device}, {precision}, attention {kernels}, {'not compiled' if run.how == 'plain' else run.how}"


def _describe_phase(run: Run, phase: Phase) -> Iterator[str]:
    settings, batches = phase.settings, phase.order.batches
    share = f" of {phase.masking.probability:.0%}" if phase.masking else ""
    for source, epochs in phase.epochs():
        total = source.manifest.splits["train"].totals()
        rows = f"{total['rows']:,} rows of up to {total['max_row_tokens']} tokens, {total['tokens']:,} tokens"
        yield f"data: {source.url}: {rows}; {epochs:.2f} epochs, masking {settings.masking}{share}"
    rows = f"{settings.global_batch}" + (f" to {settings.end_global_batch}" if batches.last > batches.first else "")
    tokens = phase.end * phase.mean_tokens()
    yield f"run: {phase.num_steps:,} steps of {rows} rows, {tokens:,.0f} tokens at {phase.mean_tokens():.1f} per row"
    schedule, begins = phase.schedule(run.num_steps)
    lrs = [schedule.lr(step - begins) for step in (phase.first_step, max(phase.first_step, phase.end_step - 1))]
    peak = f"peak {settings.lr:.3g}"
    yield f"learning rate: {settings.schedule}, {lrs[0]:.3g} in the first step, {lrs[1]:.3g} in the last, {peak}"
    lanes = ", ".join(str(source.order.lanes) for source in phase.sources)
    yield (
        f"step: {batches.last} micro-batches of {settings.micro_batch} rows, {_busiest(run, phase)} on the busiest "
        f"of {run.ranks.world_size} processes; order: {lanes} lanes"
    )
    if run.cache is not None:
        counts = lanes_in_phase(phase.order, run.ranks.local, run.ranks.world_size, phase.begun_position)
        needed = sum(needed_bytes(source.shards[1], len(counts[k])) for k, source in enumerate(phase.sources))
        yield (
            f"cache: {settings.cache}, up to {size(run.cache.limit)}; it needs room for two shards per lane "
            f"({sum(map(len, counts.values()))} lanes, {size(needed)})"
        )


def _busiest(run: Run, phase: Phase) -> int:
    """Micro-batches of the largest step on the busiest rank, which is the first."""
    return len(part_of(phase.order.batches.last, 0, run.ranks.world_size))


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
        input_ids=np.full(int(token_offsets[-1]), run.phase.sources[0].manifest.tokenizer["special_ids"]["cls"], np.uint32),
        sequence_lengths=lengths,
        segment_a_lengths=lengths,
        next_sentence_label=np.zeros(len(lengths), np.uint8),
        masked_offsets=np.arange(shape.rows + 1) * masked,
        masked_positions=np.tile(np.arange(masked), shape.rows).astype(np.uint16),
        masked_labels=np.zeros(masked * shape.rows, np.uint32),
    )
    return pack_batch(rows, shape, run.pad_id(), run.layout).to(run.ranks.device)


def rehearse(run: Run) -> Iterator[str]:
    """Runs the largest and a mean micro-batch of each phase; reports time and memory. The model is not usable afterwards."""
    most_s = about_s = 0.0
    for phase in run.phases:
        if phase.number > 1:
            run.enter(phase)
            yield from warm_up(run)
        prefix = f"phase {phase.number}, " if len(run.phases) > 1 else ""
        # Padded attention computes each sequence at full length: a row of many short ones takes much longer than most rows do.
        shapes = run.shape, replace(run.shape, sequences=max(1, round(run.shape.mean_sequences)))
        of_batch_s = []
        for name, batch in zip(("largest", "mean"), (largest_batch(run, shape) for shape in shapes), strict=True):
            batch_s, loss = _time(run, batch)
            of_batch_s.append(batch_s)
            yield (
                f"{prefix}{name} micro-batch: {batch.tokens:,} tokens, {batch.pairs:,} sequences, loss {loss:.2f}, "
                f"{batch_s:.2f} s; {short(batch.tokens / batch_s)} tokens/s per process"
            )
        num_batches = _busiest(run, phase) * phase.num_steps
        most_s, about_s = most_s + max(of_batch_s) * num_batches, about_s + of_batch_s[1] * num_batches
        if run.ranks.device.type == "cuda":
            free, whole = torch.cuda.mem_get_info()
            most = size(torch.cuda.max_memory_allocated())
            yield f"{prefix}memory: {most} of {size(whole)} on the device at most, {size(free)} free"
    yield f"about {clock(about_s)} for all steps, at most {clock(most_s)}"
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux
    yield f"memory: {size(resident)} resident at most, in this process"


def _time(run: Run, batch: PackedBatch) -> tuple[float, float]:
    """Seconds of a micro-batch forward and backward with an update, and its loss. The first of two times is not counted."""
    counts = Counts(batch.tokens, batch.masked, batch.pairs, batch.attended)
    for _ in range(2):  # the first time includes compilation and allocation
        started = time.perf_counter()
        losses = backward(run.model, [batch], [0], counts, run.autocast)
        update(run.encoder, run.optimizer, 0.0, run.settings.clip_norm, run.keeps_gradients)
        loss = float(losses.sum())  # waits for the device
        seconds = time.perf_counter() - started
    return seconds, loss

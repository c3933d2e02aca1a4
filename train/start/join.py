"""The model of a run on all ranks: attention settled, compiled, wrapped in DDP. Ranks communicate here."""

import time

from shards.errors import UserError
from train.device import compiling, kernels
from train.device.memory import keep_inputs_only
from train.recipe.sources import SPLIT
from train.run import Run
from train.step import clear_gradients


def join_ranks(run: Run) -> list[str]:
    """Settles attention, compiles the model, wraps it in DDP, and runs an empty micro-batch through it once.

    Returns messages for the user.

    DDP orders its buckets by the first backward pass. With an empty batch they are the same wherever a run starts, and so is
    the order in which gradients are summed.
    """
    messages = settle_attention(run)
    if run.how != "plain":
        messages += compile_on_all(run)
    if run.how == "plain" and run.settings.activation_checkpointing:
        keep_inputs_only(run.encoder)
    run.model = run.ranks.wrap(run.packed)
    run.pass_once(run.model, run.empty_batch())
    return messages


def warm_up(run: Run) -> list[str]:
    """Compiles for the shapes of a phase that begins, and runs an empty micro-batch. Returns messages for the user."""
    messages = []
    if run.how != "plain":
        started = time.perf_counter()
        fault = compiling.warm_up(run.batches_of_all_shapes(), lambda batch: run.pass_once(run.packed, batch), run.how)
        run.ranks.agreed(lambda: _require_none(fault))
        messages.append(f"compiled for its shapes in {time.perf_counter() - started:.0f} s")
    run.pass_once(run.model, run.empty_batch())
    return messages


def _require_none(fault: str | None) -> None:
    if fault is not None:
        raise UserError(f"torch.compile fails for a phase that begins ({fault}); resume with --compile off")


def settle_attention(run: Run) -> list[str]:
    """With `--attention auto`: the fastest of those that can be, on every rank that of rank 0. Returns messages.

    It is measured with the rows of the phase in which this start begins.
    """
    totals = [source.manifest.splits[SPLIT].totals() for source in run.phase.sources]
    tokens, sequences = (sum(total[name] for total in totals) for name in ("tokens", "sequences"))
    filled_share = tokens / max(1, sequences * run.shape.longest)
    if run.settings.attention != "auto" or not kernels.may_be_padded(run.encoder, filled_share):
        return []
    seconds = run.ranks.from_first(lambda: kernels.times(run.encoder, run.shape, run.ranks.device, run.settings.dropout))
    return [kernels.choose_fastest(run.encoder, seconds)]


def compile_on_all(run: Run) -> list[str]:
    """Compiles the model on every rank, or on none: with `auto`, one rank without a compiler leaves all with plain code."""
    started = time.perf_counter()
    clear_gradients(run.encoder, run.keeps_gradients)
    compiling.compile_model(run.packed, run.encoder, run.how, len(run.phases))
    if run.settings.activation_checkpointing:
        keep_inputs_only(run.encoder)
    fault = compiling.warm_up(run.batches_of_all_shapes(), lambda batch: run.pass_once(run.packed, batch), run.how)
    fault = next((fault for fault in run.ranks.gather(fault) if fault is not None), None)
    if fault is None:
        shape = "layer by layer" if run.how == "layers" else "as a whole, with CUDA graphs"
        return [f"compiled {shape} in {time.perf_counter() - started:.0f} s"]
    if "on" in (run.settings.compile, run.settings.cuda_graphs):
        raise UserError(f"--compile on: torch.compile fails here ({fault}); use --compile auto or off")
    compiling.undo(run.packed)
    run.how = "plain"
    clear_gradients(run.encoder)
    return [f"not compiled, because torch.compile fails here ({fault})"]

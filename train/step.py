"""One step: forward and backward over a rank's micro-batches, then one update that is the same on every rank.

batches -> backward: gradients of the global loss, summed over ranks -> update: clip, optimizer, or skip -> StepSums
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from transformers import PreTrainedModel

from shards.randomness import Purpose, address
from train.data.batch import PackedBatch
from train.models.families import pair_parameters


@dataclass(frozen=True)
class Counts:
    """What is in a step, over all ranks. The losses are divided by `masked` and `pairs`."""

    tokens: int
    masked: int
    pairs: int
    attended: int  # sum of the squared lengths of the sequences: pairs of tokens that a layer compares
    nearby: int = 0  # those that a layer with local attention compares


class Update(NamedTuple):
    """What became of a step, as scalars on the device: the gradient's norm, and 1 where the step was skipped, else 0."""

    norm: Tensor
    skipped: Tensor


class StepSums:
    """Sums over the steps since the last line of metrics. They stay on the device, so that no step has to wait for it."""

    def __init__(self, device: torch.device) -> None:
        self.losses = torch.zeros(2, device=device)  # MLM, NSP; this rank's part
        self.skipped = torch.zeros((), device=device)
        self.in_a_row = torch.zeros((), device=device)
        self.longest = torch.zeros((), device=device)  # the most skipped steps in a row
        self.norm = torch.zeros((), device=device)  # of the last step

    def add(self, losses: Tensor, update: Update) -> None:
        """Adds a step: its losses [MLM, NSP], unless it was skipped."""
        self.losses += torch.where(update.skipped > 0, 0.0, losses)  # not times 0: the loss of a skipped step may be NaN
        self.norm = update.norm
        self.skipped += update.skipped
        self.in_a_row = (self.in_a_row + update.skipped) * update.skipped
        self.longest = torch.maximum(self.longest, self.in_a_row)

    def clear(self) -> None:
        """Starts the next interval. `in_a_row` stays: a series of skipped steps may reach over several intervals."""
        self.losses.zero_()
        self.skipped.zero_()
        self.longest.zero_()


def dropout_seed(seed: int, step: int, micro_batch: int) -> int:
    """The seed of a micro-batch's dropout: the same activations are dropped whichever rank computes it."""
    return int(address(seed, Purpose.DROPOUT, step, micro_batch)) >> 1


def backward(
    model: nn.Module, batches: Sequence[PackedBatch], seeds: Sequence[int], counts: Counts, autocast: Callable[[], Any]
) -> Tensor:
    """Adds the gradient of the step's loss to the parameters, over all ranks. Returns this rank's part of [MLM, NSP] loss.

    The loss is MLM averaged over the step's masked tokens plus NSP averaged over its pairs, of all ranks. Ranks exchange
    gradients once, in the last micro-batch.
    """
    losses = torch.zeros(2, device=batches[0].input_ids.device)
    for i, (batch, seed) in enumerate(zip(batches, seeds, strict=True)):
        torch.manual_seed(seed)
        is_last = i == len(batches) - 1
        with nullcontext() if is_last or not isinstance(model, DistributedDataParallel) else model.no_sync():
            with autocast():
                sums = model(batch)
            mlm_loss, nsp_loss = sums.mlm_loss / max(1, counts.masked), sums.nsp_loss / max(1, counts.pairs)
            (mlm_loss + nsp_loss).backward()
        losses += torch.stack([mlm_loss.detach(), nsp_loss.detach()])
    return losses


def drop_unused_gradients(encoder: PreTrainedModel, counts: Counts) -> None:
    """Without pairs, the pair head has a gradient of zeros, and AdamW would let its weights decay.

    It gets no gradient instead, so that the optimizer leaves it as it is.
    """
    if not counts.pairs:
        for parameter in pair_parameters(encoder):
            parameter.grad = None


def clear_gradients(model: nn.Module, keep: bool = False) -> None:
    """Drops the gradients or, with `keep`, sets them to zeros in place.

    CUDA graphs need the second: autograd adds to a gradient that exists, but takes over the memory of a first one, which a
    graph overwrites when it is replayed.
    """
    if not keep:
        model.zero_grad()
        return
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    torch._foreach_zero_([parameter.grad for parameter in model.parameters() if parameter.grad is not None])


def update(
    model: nn.Module, optimizer: torch.optim.Optimizer, lr: float, clip_norm: float, keep_gradients: bool = False
) -> Update:
    """Clips the gradient and takes the step, or skips it where the gradient is not finite. Never waits for the device.

    `keep_gradients`: see `clear_gradients`.
    """
    parameters = list(model.parameters())
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if clip_norm:
        clip_grads_with_norm_(parameters, clip_norm, norm)
    skipped = (~torch.isfinite(norm)).float()
    # The protocol of torch.amp.GradScaler: a fused optimizer takes no step where `found_inf` is 1. Reading `skipped` on the
    # host instead would wait for the device in every step.
    optimizer.found_inf = skipped  # type: ignore[attr-defined]
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    clear_gradients(model, keep_gradients)
    return Update(norm.detach(), skipped)

"""One step: forward and backward over a rank's micro-batches, then one update that every rank makes alike."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from shards.randomness import Purpose, address
from train.data.batch import PackedBatch


@dataclass(frozen=True)
class Counts:
    """What the losses of a step are divided by, and what it came to, over all ranks."""

    tokens: int
    masked: int
    pairs: int
    attended: int  # sum of the squared lengths of the sequences


class StepSums:
    """Running sums on the device since they were last read, and the last gradient's norm."""

    def __init__(self, device: torch.device) -> None:
        self.losses = torch.zeros(2, device=device)  # MLM, NSP
        self.skipped = torch.zeros((), device=device)
        self.in_a_row = torch.zeros((), device=device)
        self.longest = torch.zeros((), device=device)
        self.norm = torch.zeros((), device=device)

    def note(self, norm: Tensor, skipped: Tensor) -> None:
        """Counts a step in; `skipped` is 0 or 1."""
        self.norm = norm
        self.skipped += skipped
        self.in_a_row = (self.in_a_row + skipped) * skipped
        self.longest = torch.maximum(self.longest, self.in_a_row)

    def clear(self) -> None:
        """Begins anew, but for the run of skips that is going on."""
        self.losses.zero_()
        self.skipped.zero_()
        self.longest.zero_()


def dropout_seed(seed: int, step: int, micro_batch: int) -> int:
    """Of one micro-batch: whoever computes it drops the same activations."""
    return int(address(seed, Purpose.DROPOUT, step, micro_batch)) >> 1


def backward(
    model: nn.Module, batches: Sequence[PackedBatch], seeds: Sequence[int], counts: Counts, autocast: Callable[[], Any]
) -> Tensor:
    """Adds the gradient of the step's loss to the parameters, over all ranks; returns this rank's part of [MLM, NSP] loss.

    The loss is MLM over the step's masked tokens plus NSP over its pairs; ranks meet once, in the last micro-batch.
    """
    losses = torch.zeros(2, device=batches[0].input_ids.device)
    for i, (batch, seed) in enumerate(zip(batches, seeds, strict=True)):
        torch.manual_seed(seed)
        last = i == len(batches) - 1
        with nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync():
            with autocast():
                sums = model(batch)
            mlm_loss, nsp_loss = sums.mlm_loss / max(1, counts.masked), sums.nsp_loss / max(1, counts.pairs)
            (mlm_loss + nsp_loss).backward()
        losses += torch.stack([mlm_loss.detach(), nsp_loss.detach()])
    return losses


def update(model: nn.Module, optimizer: torch.optim.Optimizer, lr: float, clip_norm: float, step_sums: StepSums) -> None:
    """Clips the gradient and takes the step, or skips it where the gradient is not finite; never waits for the device."""
    parameters = list(model.parameters())
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if clip_norm:
        clip_grads_with_norm_(parameters, clip_norm, norm)
    skipped = (~torch.isfinite(norm)).float()
    step_sums.note(norm.detach(), skipped)
    optimizer.found_inf = skipped  # type: ignore[attr-defined]  # as torch.amp.GradScaler sets it for fused optimizers
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()

"""One step: what is skipped leaves nothing behind, and what is not used does not decay."""

import copy
from dataclasses import replace

import pytest
import torch
from batches import bert, counts_of, masked_rows, pack

from train.data.batch import PackedBatch
from train.device import attention
from train.models.packed import PackedEncoder
from train.optimizers.make import make_optimizer
from train.step import StepSums, Update, backward, drop_unused_gradients, update

CPU = torch.device("cpu")


def no_autocast() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


def one_step(model: PackedEncoder, optimizer: torch.optim.Optimizer, batch: PackedBatch) -> tuple[torch.Tensor, Update]:
    counts = counts_of(batch)
    losses = backward(model, [batch], [0], counts, no_autocast)
    drop_unused_gradients(model.encoder, counts)
    return losses, update(model.encoder, optimizer, 1e-2, 1.0)


def test_a_skipped_step_changes_nothing_and_leaves_the_losses_of_the_others() -> None:
    model = PackedEncoder(bert(attention.PADDED)).train()
    optimizer, sums, batch = make_optimizer(model.encoder, 0.1), StepSums(CPU), pack(masked_rows(4))
    good, first = one_step(model, optimizer, batch)
    sums.add(good, first)
    before = copy.deepcopy(model.encoder.state_dict())
    bias = model.encoder.cls.predictions.bias
    saved = bias.detach().clone()
    bias.data[7] = torch.nan
    bad, second = one_step(model, optimizer, batch)
    sums.add(bad, second)
    assert not bad.isfinite().all() and (first.skipped, second.skipped) == (0, 1)
    bias.data.copy_(saved)
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
    assert torch.equal(sums.losses, good) and sums.skipped == sums.in_a_row == sums.longest == 1
    sums.add(good, Update(first.norm, torch.zeros(())))
    assert torch.equal(sums.losses, 2 * good) and sums.in_a_row == 0 and sums.longest == 1


def test_without_pairs_the_pooler_and_its_head_stay_as_they_are() -> None:
    """Bit for bit, through steps with weight decay; with pairs they train, and in both cases everything else does."""
    rows = masked_rows(4)
    for batch, has_pairs in ((pack(rows), True), (pack(replace(rows, next_sentence_label=None)), False)):
        model = PackedEncoder(bert(attention.PADDED)).train()
        optimizer, before = make_optimizer(model.encoder, 0.1), copy.deepcopy(dict(model.encoder.named_parameters()))
        for _ in range(3):
            one_step(model, optimizer, batch)
        for name, parameter in model.encoder.named_parameters():
            belongs_to_pairs = "pooler" in name or "seq_relationship" in name
            stays = torch.equal(parameter, before[name])
            assert stays == (belongs_to_pairs and not has_pairs), name


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_the_norm_is_that_before_clipping(clip_norm: float) -> None:
    model = PackedEncoder(bert(attention.PADDED)).train()
    batch = pack(masked_rows(4))
    backward(model, [batch], [0], counts_of(batch), no_autocast)
    gradient = torch.cat([p.grad.view(-1) for p in model.encoder.parameters() if p.grad is not None])
    norm = update(model.encoder, make_optimizer(model.encoder, 0.0), 1e-3, clip_norm).norm
    assert norm.item() == pytest.approx(gradient.norm().item(), rel=1e-5) and norm > 1.0

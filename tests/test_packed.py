"""The packed model is the padded one: losses, every gradient, and no look at a neighbour."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from batches import SHAPE, bert, counts_of, masked_rows, pack
from datasets_of_rows import MAX_SEQ_LEN
from rows_of_ids import SPECIAL, VOCAB_SIZE
from torch import nn
from transformers import BertForPreTraining

from shards.schema import Rows, concatenate
from train.data.batch import pad_batch
from train.data.reader import empty_rows
from train.device import attention
from train.models.packed import PackedEncoder
from train.step import backward, dropout_seed


def packed_and_padded() -> tuple[PackedEncoder, BertForPreTraining]:
    return PackedEncoder(bert(attention.PADDED)).train(), bert().train()


def gradients(model: PackedEncoder | BertForPreTraining) -> dict[str, torch.Tensor]:
    inner = model.encoder if isinstance(model, PackedEncoder) else model
    return {name: p.grad.clone() for name, p in inner.named_parameters() if p.grad is not None}


def padded_losses(model: BertForPreTraining, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """transformers' own forward pass and losses."""
    batch = pad_batch(rows, MAX_SEQ_LEN, SPECIAL["pad"])
    out = model(**{name: values for name, values in batch.items() if "label" not in name})
    mlm = nn.functional.cross_entropy(out.prediction_logits.view(-1, VOCAB_SIZE), batch["labels"].view(-1))
    nsp = nn.functional.cross_entropy(out.seq_relationship_logits, batch["next_sentence_label"])
    return mlm, nsp


@pytest.mark.parametrize("is_packed", [True, False], ids=["packed", "a sequence a row"])
def test_losses_and_every_gradient_equal_the_padded_model(is_packed: bool) -> None:
    packed, padded = packed_and_padded()
    rows = masked_rows(5, 3, is_packed)  # rows with uneven counts, and one row missing
    batch = pack(rows)
    sums = packed(batch)
    mlm, nsp = padded_losses(padded, rows)
    assert sums.mlm_loss.item() / batch.masked == pytest.approx(mlm.item(), abs=1e-5)
    assert sums.nsp_loss.item() / batch.pairs == pytest.approx(nsp.item(), abs=1e-5)
    (sums.mlm_loss / batch.masked + sums.nsp_loss / batch.pairs).backward()
    (mlm + nsp).backward()
    ours, theirs = gradients(packed), gradients(padded)
    assert list(ours) == list(theirs) and len(ours) == 46
    for name, mine in ours.items():
        assert (mine - theirs[name]).abs().max() < 1e-5, name
        assert mine.abs().max() > 1e-4 or "key.bias" in name, f"{name} is not tested by a zero gradient"


def test_the_naive_way_fails_that_test() -> None:
    """Positions that restart, but attention over the whole row: neighbours are seen, and the loss shows it."""
    packed, padded = packed_and_padded()
    naive = PackedEncoder(bert("sdpa")).train()
    layers = naive.encoder.base_model.encoder
    layers.register_forward_pre_hook(lambda _, args, kwargs: (args, {}), with_kwargs=True)  # drops the boundaries
    rows = masked_rows(5, 3)
    batch = pack(rows)
    mlm, _ = padded_losses(padded, rows)
    assert abs(naive(batch).mlm_loss.item() / batch.masked - mlm.item()) > 1e-3
    assert abs(packed(batch).mlm_loss.item() / batch.masked - mlm.item()) < 1e-5


def test_no_sequence_sees_another() -> None:
    """Other tokens in one sequence change no loss but its own."""
    packed, _ = packed_and_padded()
    rows = masked_rows(4, 1)
    starts = rows.sequence_starts()
    other = rows.input_ids.copy()
    other[starts[1] + 1 : starts[2] - 1] = 77
    changed = replace(rows, input_ids=other)
    one, two = pack(rows), pack(changed)
    hidden = [packed.hidden_states(batch).detach() for batch in (one, two)]
    moved = (hidden[0] - hidden[1]).abs().amax(-1).view(-1) > 1e-6
    assert set(moved.nonzero().view(-1).tolist()) == set(range(int(starts[1]), int(starts[2]))), "sequence 1 lies in row 0"


def test_empty_rows_and_rows_without_masks_or_pairs_give_zeros_and_no_nan() -> None:
    packed, _ = packed_and_padded()
    bare = replace(masked_rows(3), masked_offsets=None, masked_positions=None, masked_labels=None, next_sentence_label=None)
    for rows in (empty_rows(), bare):
        packed.zero_grad()
        losses = backward(packed, [pack(rows)], [0], counts_of(pack(rows)), _plain)
        assert losses.tolist() == [0.0, 0.0]
        assert all(not gradient.any() for gradient in gradients(packed).values())


def _plain() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


def _parts(rows: Rows, size: int) -> Iterator[Rows]:
    for first in range(0, len(rows), size):
        yield rows.slice(first, first + size)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
def test_gradients_do_not_depend_on_the_split(size: int) -> None:
    """The same twelve rows, uneven in every count, some with no mask at all, in micro-batches of `size`."""
    rows = concatenate([masked_rows(11, 5), _without_masks(masked_rows(1, 6))])
    whole, split = (_gradient(rows, part) for part in (12, size))
    norm = torch.cat([g.view(-1) for g in whole.values()]).norm()
    difference = torch.cat([(whole[name] - split[name]).view(-1) for name in whole]).norm()
    assert norm > 0 and difference / norm < 1e-5


def _without_masks(rows: Rows) -> Rows:
    assert rows.masked_offsets is not None and rows.masked_positions is not None and rows.masked_labels is not None
    return replace(
        rows,
        masked_offsets=rows.masked_offsets * 0,
        masked_positions=rows.masked_positions[:0],
        masked_labels=rows.masked_labels[:0],
    )


def _gradient(rows: Rows, size: int) -> dict[str, torch.Tensor]:
    model = PackedEncoder(bert(attention.PADDED)).train()
    batches = [pack(part, replace(SHAPE, rows=size)) for part in _parts(rows, size)]
    backward(model, batches, [0] * len(batches), counts_of(*batches), _plain)
    return gradients(model)


def test_averaging_the_means_of_parts_would_fail_that_test() -> None:
    """So the test above can fail: this is the common mistake."""
    rows = masked_rows(12, 5)
    whole = _gradient(rows, 12)
    means: dict[str, torch.Tensor] = {}
    for part in _parts(rows, 2):
        for name, gradient in _gradient(part, 2).items():
            means[name] = means.get(name, 0) + gradient / 6
    norm = torch.cat([g.view(-1) for g in whole.values()]).norm()
    assert torch.cat([(whole[name] - means[name]).view(-1) for name in whole]).norm() / norm > 1e-3


def test_dropout_belongs_to_the_micro_batch() -> None:
    """Whatever was computed before, a micro-batch drops the same; another one or another step drops others."""
    model = PackedEncoder(bert(attention.PADDED, dropout=0.1)).train()
    batch = pack(masked_rows(4))

    def losses(seeds: Sequence[int]) -> list[float]:
        return [float(backward(model, [batch], [seed], counts_of(batch), _plain).sum()) for seed in seeds]

    seeds = [dropout_seed(1, step, number) for step, number in ((5, 0), (5, 1), (6, 0))]
    first = losses(seeds)
    assert losses(seeds[::-1])[::-1] == first and len(set(first)) == 3


def test_scores_count_what_is_right_in_evaluation_only() -> None:
    packed, padded = packed_and_padded()
    rows = masked_rows(5, 3)
    batch = pack(rows)
    assert packed(batch).mlm_right is None
    with torch.no_grad():
        sums = packed.eval()(batch)
        padded_batch = pad_batch(rows, MAX_SEQ_LEN, SPECIAL["pad"])
        out = padded.eval()(**{name: values for name, values in padded_batch.items() if "label" not in name})
    assert sums.mlm_right == (out.prediction_logits.argmax(-1) == padded_batch["labels"]).sum()
    assert sums.nsp_right == (out.seq_relationship_logits.argmax(-1) == padded_batch["next_sentence_label"]).sum()


def test_bf16_autocast_stays_near() -> None:
    """Products are rounded to 8 bits, which moves the loss little and the gradient hardly in direction; sums stay fp32."""
    packed, _ = packed_and_padded()
    batch, losses, flat = pack(masked_rows(5, 3)), [], []
    for half in (False, True):
        packed.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            sums = packed(batch)
        (sums.mlm_loss + sums.nsp_loss).backward()
        losses.append(sums.mlm_loss.item())
        flat.append(torch.cat([gradient.flatten() for gradient in gradients(packed).values()]))
        assert sums.mlm_loss.dtype == flat[-1].dtype == torch.float32
    assert losses[0] != losses[1], "bf16 was used"
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert torch.cosine_similarity(*flat, dim=0) > 0.999

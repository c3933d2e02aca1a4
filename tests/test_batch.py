"""Packed and padded batches of the same rows say the same, and a packed one always has its shape."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from batches import SHAPE, masked_rows, pack
from datasets_of_rows import MAX_SEQ_LEN, ROW_TOKENS
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_of_ids import SPECIAL

from train.data.batch import IGNORED, Shape, pad_batch
from train.data.reader import empty_rows


@given(count=st.integers(0, 6), seed=st.integers(0, 99), packed=st.booleans())
@settings(deadline=None, max_examples=60)
def test_packed_and_padded_hold_the_same(count: int, seed: int, packed: bool) -> None:
    rows = masked_rows(count, seed, packed) if count else empty_rows()
    batch, padded = pack(rows), pad_batch(rows, MAX_SEQ_LEN, SPECIAL["pad"])
    real = padded["attention_mask"].bool()
    sequences = len(real)
    assert torch.equal(batch.is_token[:-1], real) and not batch.is_token[-1].any()
    at = batch.token_of_slot.view(-1, MAX_SEQ_LEN)[:-1][real]
    for name, packed_values in (("input_ids", batch.input_ids), ("token_type_ids", batch.token_type_ids)):
        assert torch.equal(packed_values.view(-1)[at].long(), padded[name][real])
    assert torch.equal(batch.position_ids.view(-1)[at].long(), torch.arange(MAX_SEQ_LEN).expand_as(real)[real])
    assert torch.equal(batch.cls_at[:sequences], batch.token_of_slot.view(-1, MAX_SEQ_LEN)[:-1, 0])
    slots = torch.arange(batch.is_token.numel())[batch.is_token.view(-1)]
    assert torch.equal(batch.slot_of_token[at], slots), "the two indices are inverse"
    padding = torch.ones(batch.input_ids.numel(), dtype=torch.bool)
    padding[at] = False
    assert (batch.slot_of_token[padding] == sequences * MAX_SEQ_LEN).all()
    assert (batch.input_ids.view(-1)[padding] == SPECIAL["pad"]).all()
    if count:
        labels = torch.full((batch.input_ids.numel(),), IGNORED)
        labels[batch.masked_at[: batch.masked]] = batch.masked_labels[: batch.masked]
        assert torch.equal(labels[at], padded["labels"][real]) and batch.masked == (padded["labels"] != IGNORED).sum()
        assert torch.equal(batch.next_sentence_label[:sequences], padded["next_sentence_label"])
    assert (batch.masked_labels[batch.masked :] == IGNORED).all() and (batch.next_sentence_label[sequences:] == IGNORED).all()
    assert (batch.tokens, batch.attended) == (int(real.sum()), int((real.sum(1) ** 2).sum()))


@given(count=st.integers(0, 6), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_runs_cover_every_token_and_are_no_longer_than_a_sequence(count: int, seed: int) -> None:
    """What the variable-length kernels are told: each sequence alone, and padding in runs of its own."""
    batch = pack(masked_rows(count, seed) if count else empty_rows())
    starts = batch.run_starts.long()
    lengths = starts.diff()
    assert starts[0] == 0 and starts[-1] == batch.input_ids.numel() and (lengths >= 0).all() and lengths.max() <= MAX_SEQ_LEN
    assert set(batch.cls_at[: batch.pairs].tolist()) <= set(starts.tolist())
    assert torch.equal(torch.cat([torch.arange(length) for length in lengths]), batch.position_ids.view(-1).long())


def test_shapes_do_not_follow_the_rows_but_for_the_padded_slots() -> None:
    shapes = set()
    for count in range(7):
        batch = pack(masked_rows(count, count) if count else empty_rows())
        values = {f.name: getattr(batch, f.name) for f in fields(batch)}
        fixed = {name: v.shape for name, v in values.items() if torch.is_tensor(v) and not name.startswith(("is_", "token_of"))}
        shapes.add(tuple(sorted(fixed.items())))
    assert len(shapes) == 1


@pytest.mark.parametrize(
    "shape", [Shape(2, ROW_TOKENS, MAX_SEQ_LEN, 4, 16), Shape(6, 20, 20, 4, 16), Shape(6, ROW_TOKENS, 20, 4, 16)]
)
def test_rows_beyond_the_shape_are_an_error(shape: Shape) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        pack(masked_rows(3), shape)


def test_dynamic_masks_fit_the_shape() -> None:
    for seed in range(20):
        rows = masked_rows(6, seed)
        assert rows.masked_offsets is not None
        assert np.diff(rows.masked_offsets).max() <= min(ROW_TOKENS, int(0.15 * ROW_TOKENS) + SHAPE.sequences)

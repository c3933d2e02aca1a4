"""Packed and padded batches of the same rows say the same, and a packed one always has its shape."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from batches import SHAPE, masked_rows, pack
from datasets_of_rows import MAX_SEQ_LEN, ROW_TOKENS
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_of_ids import SPECIAL

from train.data.batch import IGNORED, pack_batch, pad_batch, tensors_of
from train.data.layout import Layout, Shape, block_bytes
from train.data.reader import empty_rows


@given(count=st.integers(0, 6), seed=st.integers(0, 99), packed=st.booleans(), layout=st.sampled_from(["padded", "rounded"]))
@settings(deadline=None, max_examples=60)
def test_packed_and_padded_hold_the_same(count: int, seed: int, packed: bool, layout: Layout) -> None:
    rows = masked_rows(count, seed, packed) if count else empty_rows()
    batch, padded = pack(rows, layout=layout), pad_batch(rows, MAX_SEQ_LEN, SPECIAL["pad"])
    slots = batch.slots
    assert slots is not None
    real = padded["attention_mask"].bool()
    sequences = len(real)
    assert torch.equal(slots.is_token[:sequences], real) and not slots.is_token[sequences:].any()
    assert torch.equal(slots.is_key[:sequences], real) and len(slots.is_key) > sequences
    assert slots.is_key[sequences:, 0].all() and not slots.is_key[sequences:, 1:].any()
    at = slots.token_of_slot.view(-1, MAX_SEQ_LEN)[:sequences][real]
    for name, packed_values in (("input_ids", batch.input_ids), ("token_type_ids", batch.token_type_ids)):
        assert torch.equal(packed_values.view(-1)[at].long(), padded[name][real])
    assert torch.equal(batch.position_ids.view(-1)[at].long(), torch.arange(MAX_SEQ_LEN).expand_as(real)[real])
    assert torch.equal(batch.cls_at[:sequences], slots.token_of_slot.view(-1, MAX_SEQ_LEN)[:sequences, 0])
    used = torch.arange(slots.is_token.numel())[slots.is_token.view(-1)]
    assert torch.equal(slots.slot_of_token[at], used), "the two indices are inverse"
    padding = torch.ones(batch.input_ids.numel(), dtype=torch.bool)
    padding[at] = False
    assert (slots.slot_of_token[padding] == sequences * MAX_SEQ_LEN).all()
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


@pytest.mark.parametrize(("layout", "num_shapes"), [("varlen", 1), ("rounded", 4), ("padded", 7)])
def test_shapes_do_not_follow_the_rows_unless_the_layout_says_so(layout: Layout, num_shapes: int) -> None:
    """Compiled code is made for a shape: varlen has one, rounded as many as it has sizes, padded one for each number."""
    shape = replace(SHAPE, mean_sequences=0.1)
    batches = [pack(masked_rows(count, 0, packed=False) if count else empty_rows(), shape, layout) for count in range(7)]
    shapes = {tuple((name, tensor.shape) for name, tensor in tensors_of(batch)) for batch in batches}
    sizes = {batch.slots.is_token.shape for batch in batches if batch.slots is not None}
    rounded = {(size, MAX_SEQ_LEN) for size in shape.rounded_slots()}
    assert len(shapes) <= num_shapes and (layout != "padded" or len(shapes) == 7)
    assert layout != "rounded" or (sizes <= rounded and len(sizes) > 1)
    assert layout == "varlen" or sizes


def test_varlen_has_none_of_the_padded_tensors() -> None:
    rows = masked_rows(5, 3)
    varlen, padded = pack(rows, layout="varlen"), pack(rows)
    assert varlen.slots is None and padded.slots is not None
    assert len(varlen.block) < len(padded.block)
    for (name, tensor), (other_name, other) in zip(tensors_of(varlen), tensors_of(padded), strict=False):
        assert name == other_name and torch.equal(tensor, other)


@pytest.mark.parametrize(("mean", "sizes"), [(4.0, (37, 60, 96, 153)), (18.9, (153,)), (0.0, (1, 6, 29, 153))])
def test_rounded_sizes_begin_above_the_mean_and_end_at_the_most(mean: float, sizes: tuple[int, ...]) -> None:
    """With at most 19 sequences per row: 8 rows of 4 on average have 37 slots of sequences, not 153."""
    shape = Shape(8, 512, 128, 19, 80, mean)
    assert shape.rounded_slots() == sizes
    assert shape.slots(32, "padded") == 33 and shape.slots(152, "rounded") == 153
    assert shape.slots(32, "rounded") == next(size for size in sizes if size > 32)


@given(count=st.integers(0, 6), layout=st.sampled_from(["varlen", "padded", "rounded"]))
@settings(deadline=None, max_examples=20)
def test_a_copied_block_is_the_batch(count: int, layout: Layout) -> None:
    """One copy moves a batch, into memory that held another batch before."""
    rows, memory = (
        masked_rows(count) if count else empty_rows(),
        torch.full((block_bytes(SHAPE, layout),), 255, dtype=torch.uint8),
    )
    batch, reused = pack(rows, layout=layout), pack_batch(rows, SHAPE, SPECIAL["pad"], layout, memory)
    moved = reused.in_block(reused.block.clone())
    memory.zero_()
    assert (moved.tokens, moved.layout, moved.longest) == (batch.tokens, layout, MAX_SEQ_LEN)
    for (name, tensor), (_, other) in zip(tensors_of(moved), tensors_of(batch), strict=True):
        assert tensor.dtype == other.dtype and torch.equal(tensor, other), name
        assert tensor.data_ptr() % 8 == 0 and tensor.untyped_storage().data_ptr() == moved.block.data_ptr()


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

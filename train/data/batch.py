"""Rows -> the tensors of a micro-batch: packed, with fixed shapes, or padded as transformers' own models need them.

Shapes: B rows, T tokens per row, N = B * T. At most K runs (sequences, and stretches of padding), S sequences and M masked
tokens. Q is the number of sequences in the batch plus one; L the tokens of the longest sequence that is possible. Integers
that index an embedding are int32, others int64.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shards.compiled import compiled
from shards.manifest import Manifest
from shards.masking import Masking
from shards.schema import Rows

# The label of a slot without a token or sequence to predict, as in transformers.
IGNORED = -100


@dataclass(frozen=True)
class Shape:
    """The maximum size of a micro-batch of a data set."""

    rows: int
    tokens: int  # per row
    longest: int  # tokens per sequence
    sequences: int  # per row
    masked: int  # tokens per row

    @staticmethod
    def of(manifest: Manifest, split: str, rows: int, masking: Masking | None) -> "Shape":
        """The shape of `rows` rows of a split, with stored masks or with masks drawn on reading."""
        total = manifest.splits[split].totals()
        tokens, sequences = total["max_row_tokens"], total["max_sequences_per_row"]
        masked = total["max_masked_per_row"]
        if masking is not None:
            masked = max(masked, masking.most(tokens, sequences))
        return Shape(rows, max(1, tokens), max(1, total["max_sequence_tokens"]), max(1, sequences), max(1, masked))

    @property
    def runs(self) -> int:
        """K: the sequences, and the runs of padding, which are no longer than the longest sequence."""
        return self.rows * (self.sequences + -(-self.tokens // self.longest))


@dataclass(frozen=True)
class PackedBatch:
    """A micro-batch of packed rows. Every token is in one run: a sequence, or a stretch of the padding after the last one."""

    input_ids: Tensor  # [B, T] int32
    token_type_ids: Tensor  # [B, T] int32
    position_ids: Tensor  # [B, T] int32, from 0 in every run
    run_starts: Tensor  # [K + 1] int32, offsets in N; those after the last run are N
    masked_at: Tensor  # [M] places in N; unused ones are 0
    masked_labels: Tensor  # [M] or IGNORED
    cls_at: Tensor  # [S] places in N of each sequence's first token; unused ones are 0
    next_sentence_label: Tensor  # [S] or IGNORED
    token_of_slot: Tensor  # [Q * L] the sequences side by side, padded: the place in N of each slot's token, or 0
    slot_of_token: Tensor  # [N] the inverse; padding shares the first slot of the last sequence, which is empty
    is_token: Tensor  # [Q, L] bool: the slot holds a token of a sequence
    is_key: Tensor  # [Q, L] bool: the slot may be attended to; `is_token`, and the first slot of the empty sequence
    longest: int  # L
    tokens: int  # without padding
    masked: int
    pairs: int
    attended: int  # sum of the squared lengths of the sequences

    def to(self, device: torch.device) -> "PackedBatch":
        """The batch on a device. The copy is asynchronous, from pinned memory."""
        if device.type == "cpu":
            return self
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {
            name: value.pin_memory().to(device, non_blocking=True)
            for name, value in values.items()
            if isinstance(value, Tensor)
        }
        return PackedBatch(**(values | moved))


def pack_batch(rows: Rows, shape: Shape, pad_id: int) -> PackedBatch:
    """The batch of at most `shape.rows` rows; missing rows are empty. Raises ValueError for rows that do not fit the shape."""
    num_sequences, num_tokens = len(rows.sequence_lengths), shape.rows * shape.tokens
    longest_row = int(np.diff(rows.token_offsets).max(initial=0))
    if len(rows) > shape.rows or longest_row > shape.tokens or int(rows.sequence_lengths.max(initial=0)) > shape.longest:
        raise ValueError(f"{len(rows)} rows of up to {longest_row} tokens do not fit {shape}")
    ids = np.full((3, shape.rows, shape.tokens), 0, np.int32)
    ids[0] = pad_id
    run_starts = np.full(shape.runs + 1, num_tokens, np.int32)
    slots = num_sequences + 1
    token_of_slot = np.zeros((slots, shape.longest), np.int64)
    slot_of_token = np.full(num_tokens, num_sequences * shape.longest, np.int64)
    is_token = np.zeros((slots, shape.longest), np.bool_)
    cls_at = np.zeros(shape.rows * shape.sequences, np.int64)
    _lay_out(
        rows.token_offsets,
        rows.sequence_offsets,
        rows.input_ids,
        rows.sequence_lengths,
        rows.segment_a_lengths,
        ids,
        run_starts,
        token_of_slot,
        slot_of_token,
        is_token,
        cls_at,
    )
    is_key = is_token.copy()
    is_key[-1, 0] = True  # the empty sequence: a softmax over no keys would be NaN
    next_sentence_label = np.full(len(cls_at), IGNORED, np.int64)
    if rows.next_sentence_label is not None:
        next_sentence_label[:num_sequences] = rows.next_sentence_label
    masked_at = np.zeros(shape.rows * shape.masked, np.int64)
    masked_labels = np.full(len(masked_at), IGNORED, np.int64)
    masked = 0
    if rows.masked_labels is not None and rows.masked_positions is not None and rows.masked_offsets is not None:
        masked = len(rows.masked_labels)
        in_row = np.repeat(np.arange(len(rows)), np.diff(rows.masked_offsets))
        masked_at[:masked] = in_row * shape.tokens + rows.masked_positions
        masked_labels[:masked] = rows.masked_labels
    return PackedBatch(
        input_ids=torch.from_numpy(ids[0]),
        token_type_ids=torch.from_numpy(ids[1]),
        position_ids=torch.from_numpy(ids[2]),
        run_starts=torch.from_numpy(run_starts),
        masked_at=torch.from_numpy(masked_at),
        masked_labels=torch.from_numpy(masked_labels),
        cls_at=torch.from_numpy(cls_at),
        next_sentence_label=torch.from_numpy(next_sentence_label),
        token_of_slot=torch.from_numpy(token_of_slot.reshape(-1)),
        slot_of_token=torch.from_numpy(slot_of_token),
        is_token=torch.from_numpy(is_token),
        is_key=torch.from_numpy(is_key),
        longest=shape.longest,
        tokens=len(rows.input_ids),
        masked=masked,
        pairs=num_sequences if rows.next_sentence_label is not None else 0,
        attended=int(np.square(rows.sequence_lengths.astype(np.int64)).sum()),
    )


@compiled
def _lay_out(
    token_offsets: Any,
    sequence_offsets: Any,
    input_ids: Any,
    sequence_lengths: Any,
    segment_a_lengths: Any,
    ids: Any,
    run_starts: Any,
    token_of_slot: Any,
    slot_of_token: Any,
    is_token: Any,
    cls_at: Any,
) -> None:
    _, num_rows, row_tokens = ids.shape
    longest = token_of_slot.shape[1]
    run = 0
    for row in range(num_rows):
        column = 0
        if row < len(token_offsets) - 1:
            for s in range(sequence_offsets[row], sequence_offsets[row + 1]):
                start = row * row_tokens + column
                cls_at[s], run_starts[run] = start, start
                run += 1
                for i in range(np.int64(sequence_lengths[s])):
                    ids[0, row, column] = input_ids[token_offsets[row] + column]
                    ids[1, row, column] = 1 if i >= segment_a_lengths[s] else 0
                    ids[2, row, column] = i
                    token_of_slot[s, i] = start + i
                    slot_of_token[start + i] = s * longest + i
                    is_token[s, i] = True
                    column += 1
        for i in range(row_tokens - column):
            if i % longest == 0:
                run_starts[run] = row * row_tokens + column + i
                run += 1
            ids[2, row, column + i] = i % longest


def pad_batch(rows: Rows, longest: int, pad_id: int) -> dict[str, Tensor]:
    """The sequences of the rows, one per line, padded to `longest` tokens; under transformers' names, int64.

    [sequences, longest]: `input_ids`, `attention_mask`, `token_type_ids`, and `labels` if the rows have masks.
    [sequences]: `next_sentence_label`, if they have pairs.
    """
    starts = rows.sequence_starts()
    columns = np.arange(longest)
    real = columns < rows.sequence_lengths[:, None].astype(np.int64)
    input_ids = np.full(real.shape, pad_id, np.int64)
    input_ids[real] = rows.input_ids
    batch = {
        "input_ids": input_ids,
        "attention_mask": real.astype(np.int64),
        "token_type_ids": (real & (columns >= rows.segment_a_lengths[:, None].astype(np.int64))).astype(np.int64),
    }
    if rows.masked_labels is not None:
        at = rows.masked_indices()
        sequence = np.searchsorted(starts, at, side="right") - 1
        labels = np.full(real.shape, IGNORED, np.int64)
        labels[sequence, at - starts[sequence]] = rows.masked_labels
        batch["labels"] = labels
    if rows.next_sentence_label is not None:
        batch["next_sentence_label"] = rows.next_sentence_label.astype(np.int64)
    return {name: torch.from_numpy(values) for name, values in batch.items()}

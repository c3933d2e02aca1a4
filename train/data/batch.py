"""Rows -> the tensors of a micro-batch: packed, with fixed shapes, or padded as transformers' own models need them.

    rows -> layout: tensors as views of one block of memory -> pack_batch: filled -> PackedBatch
         -> to a device: one copy of the block

Shapes: B rows, T tokens per row, N = B * T. At most K runs (sequences, and stretches of padding), S sequences and M masked
tokens. Q is a number of sequences that exceeds those in the batch; L the tokens of the longest sequence that is possible.
Integers that index an embedding are int32, others int64.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shards.compiled import compiled
from shards.memory import require_memory
from shards.schema import Rows
from train.data.layout import Layout, Shape, Slots, laid_out, parts_of, size_of, view

# The label of a slot without a token or sequence to predict, as in transformers.
IGNORED = -100


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
    slots: Slots | None  # None in the layout varlen
    layout: Layout
    longest: int  # L
    tokens: int  # without padding
    masked: int
    pairs: int
    attended: int  # sum of the squared lengths of the sequences
    nearby: int  # pairs of tokens of a sequence at a distance below the window; 0 without a window
    block: Tensor  # [bytes] uint8: the memory that all the tensors above are views of

    def to(self, device: torch.device) -> "PackedBatch":
        """The batch on a device: one copy, which is asynchronous from pinned memory."""
        if device.type == "cpu":
            return self
        return self.in_block(self.block.to(device, non_blocking=True))

    def in_block(self, block: Tensor) -> "PackedBatch":
        """The batch in a copy of its block."""
        parts = laid_out({name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors_of(self)})
        tensors = {name: view(block, part) for name, part in parts.items()}
        return replace(self, **_fields(tensors), block=block)


def tensors_of(batch: PackedBatch) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of a batch, in the order of its block."""
    for name, value in vars(batch).items():
        if isinstance(value, Tensor) and name != "block":
            yield name, value
    if batch.slots is not None:
        yield from batch.slots._asdict().items()


def _fields(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The fields of a batch that hold its tensors."""
    fields: dict[str, Any] = {name: tensor for name, tensor in tensors.items() if name not in Slots._fields}
    return fields | {"slots": Slots(*(tensors[name] for name in Slots._fields)) if "is_key" in tensors else None}


def pack_batch(
    rows: Rows,
    shape: Shape,
    pad_id: int,
    layout: Layout = "padded",
    memory: Tensor | None = None,
    num_slots: int = 0,
) -> PackedBatch:
    """The batch of at most `shape.rows` rows; missing rows are empty. Raises ValueError for rows that do not fit the shape.

    `memory` [block_bytes] uint8: where the batch is written, such as pinned memory; without it, new memory.
    `num_slots`: the least number of sequences in the padded layouts, Q.
    """
    num_sequences = len(rows.sequence_lengths)
    longest_row = int(np.diff(rows.token_offsets).max(initial=0))
    if len(rows) > shape.rows or longest_row > shape.tokens or int(rows.sequence_lengths.max(initial=0)) > shape.longest:
        raise ValueError(f"{len(rows)} rows of up to {longest_row} tokens do not fit {shape}")
    parts = parts_of(shape, layout, num_sequences, num_slots)
    num_bytes = size_of(parts)
    if memory is None:
        purpose = f"a micro-batch of {len(rows)} rows with {num_sequences} sequences, padded to {shape.longest} tokens,"
        require_memory(num_bytes, purpose, "set a smaller --micro-batch")
    block = (torch.empty(num_bytes, dtype=torch.uint8) if memory is None else memory)[:num_bytes]
    tensors = {name: view(block, part) for name, part in parts.items()}
    arrays: dict[str, npt.NDArray[Any]] = {name: tensor.numpy() for name, tensor in tensors.items()}
    _write_tokens(rows, shape, pad_id, arrays)
    masked, pairs = _write_labels(rows, shape, arrays)
    return PackedBatch(
        **_fields(tensors),
        layout=layout,
        longest=shape.longest,
        tokens=len(rows.input_ids),
        masked=masked,
        pairs=pairs,
        attended=int(np.square(rows.sequence_lengths.astype(np.int64)).sum()),
        nearby=_nearby_pairs(rows.sequence_lengths.astype(np.int64), shape.window),
        block=block,
    )


def _write_tokens(rows: Rows, shape: Shape, pad_id: int, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Writes the tokens, where each sequence is and, in the padded layouts, the slots."""
    arrays["input_ids"].fill(pad_id)
    for name in ("token_type_ids", "position_ids", "cls_at", "masked_at"):
        arrays[name].fill(0)
    arrays["run_starts"].fill(shape.rows * shape.tokens)
    _write_rows(
        rows.token_offsets,
        rows.sequence_offsets,
        rows.input_ids,
        rows.sequence_lengths,
        rows.segment_a_lengths,
        arrays["input_ids"],
        arrays["token_type_ids"],
        arrays["position_ids"],
        arrays["run_starts"],
        arrays["cls_at"],
        shape.longest,
    )
    if "token_of_slot" in arrays:
        _write_slots(
            arrays["cls_at"],
            rows.sequence_lengths,
            arrays["token_of_slot"].reshape(-1, shape.longest),
            arrays["slot_of_token"],
            arrays["is_token"],
            arrays["is_key"],
        )


def _nearby_pairs(lengths: npt.NDArray[np.int64], window: int) -> int:
    """Pairs (i, j) of tokens of the same sequence with |i - j| < window."""
    beyond = np.maximum(lengths - window, 0)
    return int((np.square(lengths) - beyond * (beyond + 1)).sum()) if window else 0


def _write_labels(rows: Rows, shape: Shape, arrays: dict[str, npt.NDArray[Any]]) -> tuple[int, int]:
    """Writes what is to be predicted; returns the numbers of masked tokens and of pairs."""
    arrays["next_sentence_label"].fill(IGNORED)
    arrays["masked_labels"].fill(IGNORED)
    masked = pairs = 0
    if rows.next_sentence_label is not None and not shape.ignores_pairs:
        pairs = len(rows.next_sentence_label)
        arrays["next_sentence_label"][:pairs] = rows.next_sentence_label
    if rows.masked_labels is not None and rows.masked_positions is not None and rows.masked_offsets is not None:
        masked = len(rows.masked_labels)
        in_row = np.repeat(np.arange(len(rows)), np.diff(rows.masked_offsets))
        arrays["masked_at"][:masked] = in_row * shape.tokens + rows.masked_positions
        arrays["masked_labels"][:masked] = rows.masked_labels
    return masked, pairs


@compiled
def _write_rows(
    token_offsets: Any,
    sequence_offsets: Any,
    input_ids: Any,
    sequence_lengths: Any,
    segment_a_lengths: Any,
    ids: Any,
    token_types: Any,
    positions: Any,
    run_starts: Any,
    cls_at: Any,
    longest: int,
) -> None:
    num_rows, row_tokens = ids.shape
    run = 0
    for row in range(num_rows):
        column = 0
        if row < len(token_offsets) - 1:
            for s in range(sequence_offsets[row], sequence_offsets[row + 1]):
                start = row * row_tokens + column
                cls_at[s], run_starts[run] = start, start
                run += 1
                for i in range(np.int64(sequence_lengths[s])):
                    ids[row, column] = input_ids[token_offsets[row] + column]
                    token_types[row, column] = 1 if i >= segment_a_lengths[s] else 0
                    positions[row, column] = i
                    column += 1
        for i in range(row_tokens - column):
            if i % longest == 0:
                run_starts[run] = row * row_tokens + column + i
                run += 1
            positions[row, column + i] = i % longest


@compiled
def _write_slots(
    cls_at: Any, sequence_lengths: Any, token_of_slot: Any, slot_of_token: Any, is_token: Any, is_key: Any
) -> None:
    num_slots, longest = token_of_slot.shape
    num_sequences = len(sequence_lengths)
    slot_of_token[:] = num_sequences * longest
    for s in range(num_slots):
        length = np.int64(sequence_lengths[s]) if s < num_sequences else 0
        for i in range(length):
            token_of_slot[s, i] = cls_at[s] + i
            slot_of_token[cls_at[s] + i] = s * longest + i
        token_of_slot[s, length:] = 0
        is_token[s, :length] = True
        is_token[s, length:] = False
        is_key[s] = is_token[s]
        if not length:
            is_key[s, 0] = True  # an empty sequence: a softmax over no keys would be NaN


def pad_batch(
    rows: Rows, longest: int, pad_id: int, pair_label: str = "next_sentence_label", token_types: bool = True
) -> dict[str, Tensor]:
    """The sequences of the rows, one per line, padded to `longest` tokens; under transformers' names, int64.

    [sequences, longest]: `input_ids`, `attention_mask`, `token_type_ids`, and `labels` if the rows have masks.
    `token_types`: whether `token_type_ids` is among them. [sequences]: `pair_label`, if they have pairs and it is not empty.
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
    if rows.next_sentence_label is not None and pair_label:
        batch[pair_label] = rows.next_sentence_label.astype(np.int64)
    if not token_types:
        del batch["token_type_ids"]
    return {name: torch.from_numpy(values) for name, values in batch.items()}

"""How the tensors of a micro-batch lie in one block of memory: their names, shapes and places.

    data set -> Shape: the most that a micro-batch holds -> parts: the tensors that a layout has -> views of the block

B rows of T tokens, N = B * T; K runs, S sequences and M masked tokens at most; Q sequences of up to L slots. See `batch`.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from shards.manifest import Manifest
from shards.masking import Masking

# What attention needs beside the rows themselves.
# varlen   where each sequence begins
# padded   the sequences side by side, one more than there are
# rounded  the same with one of a few numbers of sequences, so that compiled code need not be compiled for each number
Layout = Literal["varlen", "padded", "rounded"]

_NUM_ROUNDED = 4
_ALIGNMENT = 64  # bytes: each tensor of the block begins where vectorised loads may begin


@dataclass(frozen=True)
class Shape:
    """The maximum size of a micro-batch of a data set."""

    rows: int
    tokens: int  # per row
    longest: int  # tokens per sequence
    sequences: int  # per row
    masked: int  # tokens per row
    mean_sequences: float = 1.0  # per row, over the split
    ignores_pairs: bool = False  # whether labels of pairs are left out
    window: int = 0  # of the model's local attention, to count what it computes; 0: none

    @staticmethod
    def of(manifest: Manifest, split: str, rows: int, masking: Masking | None, ignores_pairs: bool = False) -> "Shape":
        """The shape of `rows` rows of a split, with stored masks or with masks drawn on reading."""
        total = manifest.splits[split].totals()
        tokens, sequences = total["max_row_tokens"], total["max_sequences_per_row"]
        masked = total["max_masked_per_row"]
        if masking is not None:
            masked = max(masked, masking.most(tokens, sequences))
        mean = total["sequences"] / max(1, total["rows"])
        longest = max(1, total["max_sequence_tokens"])
        return Shape(rows, max(1, tokens), longest, max(1, sequences), max(1, masked), mean, ignores_pairs)

    @property
    def runs(self) -> int:
        """K: the sequences, and the runs of padding, which are no longer than the longest sequence."""
        return self.rows * (self.sequences + -(-self.tokens // self.longest))

    def slots(self, num_sequences: int, layout: Layout) -> int:
        """Q of a batch with `num_sequences` sequences."""
        if layout == "padded":
            return num_sequences + 1
        return next(size for size in self.rounded_slots() if size > num_sequences)

    def rounded_slots(self) -> tuple[int, ...]:
        """The sizes that Q is rounded up to: a little more than a batch has on average, up to the most it can have."""
        most = self.rows * self.sequences + 1
        first = min(most, math.ceil(1.1 * self.rows * self.mean_sequences) + 1)
        growth = (most / first) ** (1 / (_NUM_ROUNDED - 1))
        sizes = {math.ceil(first * growth**step) for step in range(_NUM_ROUNDED - 1)}
        return (*sorted(size for size in sizes if size < most), most)


class Slots(NamedTuple):
    """The sequences of a batch side by side, each padded to L slots, for padded attention. Unused sequences are empty."""

    token_of_slot: Tensor  # [Q * L] the place in N of each slot's token, or 0
    slot_of_token: Tensor  # [N] the inverse; padding shares the first slot of the first empty sequence
    is_token: Tensor  # [Q, L] bool: the slot holds a token of a sequence
    is_key: Tensor  # [Q, L] bool: the slot may be attended to; `is_token`, and the first slot of an empty sequence


class Part(NamedTuple):
    """Where a tensor lies in the block."""

    start: int  # in bytes
    end: int
    shape: tuple[int, ...]
    dtype: torch.dtype


def block_bytes(shape: Shape, layout: Layout) -> int:
    """Bytes of the largest batch of a shape."""
    return size_of(parts_of(shape, layout, shape.rows * shape.sequences))


def parts_of(shape: Shape, layout: Layout, num_sequences: int, num_slots: int = 0) -> dict[str, Part]:
    """The tensors of a batch with `num_sequences` sequences, by the names of their fields. Q is at least `num_slots`."""
    num_tokens, tables = shape.rows * shape.tokens, (shape.rows, shape.tokens)
    sizes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "input_ids": (tables, torch.int32),
        "token_type_ids": (tables, torch.int32),
        "position_ids": (tables, torch.int32),
        "run_starts": ((shape.runs + 1,), torch.int32),
        "masked_at": ((shape.rows * shape.masked,), torch.int64),
        "masked_labels": ((shape.rows * shape.masked,), torch.int64),
        "cls_at": ((shape.rows * shape.sequences,), torch.int64),
        "next_sentence_label": ((shape.rows * shape.sequences,), torch.int64),
    }
    if layout != "varlen":
        num_slots = max(num_slots, shape.slots(num_sequences, layout))
        sizes |= {
            "token_of_slot": ((num_slots * shape.longest,), torch.int64),
            "slot_of_token": ((num_tokens,), torch.int64),
            "is_token": ((num_slots, shape.longest), torch.bool),
            "is_key": ((num_slots, shape.longest), torch.bool),
        }
    return laid_out(sizes)


def laid_out(sizes: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> dict[str, Part]:
    """Tensors of these shapes and types, one after the other."""
    parts: dict[str, Part] = {}
    end = 0
    for name, (shape, dtype) in sizes.items():
        start = _aligned(end)
        end = start + math.prod(shape) * dtype.itemsize
        parts[name] = Part(start, end, shape, dtype)
    return parts


def size_of(parts: dict[str, Part]) -> int:
    """Bytes of a block that holds the parts."""
    return _aligned(max((part.end for part in parts.values()), default=0))


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


def view(block: Tensor, part: Part) -> Tensor:
    """A tensor of the block, which shares its memory."""
    return block[part.start : part.end].view(part.dtype).view(part.shape)

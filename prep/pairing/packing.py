"""Sequence lengths -> rows of a fixed capacity."""

from typing import Any

import numpy as np
import numpy.typing as npt

from shards.compiled import compiled
from shards.schema import Offsets

# Rooms are looked through in blocks of this size: rows of 65,535 tokens have as many.
_BLOCK = 256


def pack(lengths: npt.NDArray[np.int64], capacity: int) -> tuple[npt.NDArray[np.int64], Offsets]:
    """Best-fit decreasing, as over the histogram of lengths in Krell et al. 2021 (arXiv:2107.02027, section 3.1).

    Sequences are placed longest first, equal ones in the order given, each into a fullest row that still has room.
    Returns the sequences in the order of the rows [S], and where each row begins among them [R + 1].
    """
    longest_first = np.argsort(-lengths, kind="stable")
    row_of = _best_fit(lengths[longest_first], capacity)
    order = longest_first[np.argsort(row_of, kind="stable")]
    counts = np.bincount(row_of, minlength=int(row_of.max(initial=-1)) + 1)
    return order, np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


@compiled
def _best_fit(lengths: Any, capacity: int) -> Any:
    """The row of each sequence. Rows with the same room left are a stack: the last one touched is filled first."""
    top = np.full(capacity + 1, -1, np.int64)  # room left -> a row that has it
    stacks = np.zeros(capacity // _BLOCK + 1, np.int64)  # of each block of rooms: how many have a row
    below_row = np.empty(len(lengths), np.int64)  # row -> the next row with the same room left
    row_of = np.empty(len(lengths), np.int64)
    num_rows = 0
    for sequence in range(len(lengths)):
        length = lengths[sequence]
        room = length
        while room < capacity and top[room] < 0:
            room += _BLOCK if room % _BLOCK == 0 and stacks[room // _BLOCK] == 0 else 1
        row = top[room] if room < capacity else -1
        if row < 0:
            row, room = num_rows, capacity
            num_rows += 1
        else:
            top[room] = below_row[row]
            stacks[room // _BLOCK] -= top[room] < 0
        room -= length
        stacks[room // _BLOCK] += top[room] < 0
        below_row[row] = top[room]
        top[room] = row
        row_of[sequence] = row
    return row_of

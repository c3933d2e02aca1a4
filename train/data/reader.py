"""A rank's rows of each step, in order, read ahead of need.

    order -> positions of the next steps -> their row groups, decoded by threads -> gathered row by row -> rows of a step

Several steps are gathered at once: the cost is per call and row group, hardly per row.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.masking import Masking, mask_rows, unmask_rows
from shards.randomness import Purpose, address, combine
from shards.schema import Ints, Offsets, Rows, lengths_to_offsets, rows_from_columns
from train.data.copying import copy_rows
from train.data.order import Order, Places
from train.data.row_groups import DecodedGroups

_ROWS_AT_ONCE = 2048  # per gather
_CHUNKS_AHEAD = 2  # gathers that are ready or running, beside the one being served


@dataclass(frozen=True)
class StepRows:
    """A rank's rows of one step, in the order of its micro-batches, and their indices in the split."""

    step: int
    rows: Rows
    row_ids: npt.NDArray[np.int64]

    def micro_batch(self, number: int, size: int) -> Rows:
        """The rows of the rank's micro-batch `number`, of `size` rows; fewer, or none, in a short step."""
        return self.rows.slice(min(number * size, len(self.rows)), min((number + 1) * size, len(self.rows)))


@dataclass(frozen=True)
class RankSlice:
    """What a rank reads of a run: its micro-batches from `first_step`, which begins at position `start`, to position `end`."""

    rank: int
    world_size: int
    first_step: int
    start: int
    end: int


def read_steps(
    groups: DecodedGroups, order: Order, rank_slice: RankSlice, masking: Masking | None = None
) -> Iterator[StepRows]:
    """A rank's rows of each step. With `masking` they get new masks by (seed, epoch, row), whatever masks the shards hold.

    Raises what fails in a thread. Close the iterator to end the threads; closing `groups` is left to the caller.
    """
    micro_batches = order.micro_batches_of(rank_slice.rank, rank_slice.world_size)
    steps_at_once = max(1, _ROWS_AT_ONCE // max(1, len(micro_batches) * order.micro_batch))
    steps_end = rank_slice.first_step - (rank_slice.start - rank_slice.end) // order.global_batch
    chunks: deque[Future[list[StepRows]]] = deque()
    gatherer = ThreadPoolExecutor(1, "gather")
    try:
        for first in range(rank_slice.first_step, steps_end, steps_at_once):
            steps = range(first, min(first + steps_at_once, steps_end))
            starts = [rank_slice.start + (step - rank_slice.first_step) * order.global_batch for step in steps]
            positions = [order.positions(start, rank_slice.end, micro_batches) for start in starts]
            places = order.locate(np.concatenate(positions))
            groups.keep(order.near(np.concatenate(positions)), starts[0])
            needed = {int(group): groups.get(int(group)) for group in np.unique(places.group)}
            cuts = lengths_to_offsets(np.array([len(part) for part in positions]))
            chunks.append(gatherer.submit(_gather_steps, steps, cuts, places, needed, order.seed, masking))
            if len(chunks) > _CHUNKS_AHEAD:
                yield from chunks.popleft().result()
        while chunks:
            yield from chunks.popleft().result()
    finally:
        gatherer.shutdown(wait=True, cancel_futures=True)


def _gather_steps(
    steps: range, cuts: Any, places: Places, decoded: dict[int, Future[Rows]], seed: int, masking: Masking | None
) -> list[StepRows]:
    rows = gather(places, {group: rows.result() for group, rows in decoded.items()})
    if masking is not None:
        rows = mask_rows(unmask_rows(rows), dynamic_mask_keys(rows, places, seed), masking)
    return [
        StepRows(step, rows.slice(int(cuts[i]), int(cuts[i + 1])), places.row[cuts[i] : cuts[i + 1]])
        for i, step in enumerate(steps)
    ]


def dynamic_mask_keys(rows: Rows, places: Places, seed: int) -> npt.NDArray[np.uint64]:
    """The key of each sequence's masks [S]: a function of the seed, the epoch, the row, and the sequence's index in the row."""
    row_keys = address(seed, Purpose.DYNAMIC_MASK, places.epoch.astype(np.uint64), places.row.astype(np.uint64))
    counts = np.diff(rows.sequence_offsets)
    in_row = np.arange(len(rows.sequence_lengths)) - np.repeat(rows.sequence_offsets[:-1], counts)
    keys: npt.NDArray[np.uint64] = combine(np.repeat(row_keys, counts), in_row.astype(np.uint64))
    return keys


def gather(places: Places, groups: dict[int, Rows]) -> Rows:
    """The rows at `places`, in that order. `groups` holds the decoded row groups by number."""
    if not len(places.group):
        return empty_rows()
    by_group = np.argsort(places.group, kind="stable")
    numbers, starts = np.unique(places.group[by_group], return_index=True)
    parts = [(groups[int(number)], items) for number, items in zip(numbers, np.split(by_group, starts[1:]), strict=True)]
    columns: dict[str, tuple[Offsets, Ints]] = {}
    for name, _, template in parts[0][0].columns():
        lengths = np.empty(len(places.group), np.int64)
        for part, items in parts:
            lengths[items] = np.diff(part.offsets(name))[places.in_group[items]]
        offsets = lengths_to_offsets(lengths)
        values = np.empty(int(offsets[-1]), template.dtype)
        for part, items in parts:
            copy_rows(getattr(part, name), part.offsets(name), places.in_group[items], values, offsets, items)
        columns[name] = (offsets, values)
    return rows_from_columns(columns)


def empty_rows() -> Rows:
    """No rows, for a rank without work."""
    none = np.empty(0, np.uint16)
    return Rows(np.zeros(1, np.int64), np.zeros(1, np.int64), none, none, none)

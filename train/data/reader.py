"""A rank's rows of each step, in order, read ahead of need.

    order -> positions of the next steps -> their row groups, decoded by threads -> gathered row by row -> rows of a step

Several steps are gathered at once: the cost is per call and row group, hardly per row.
"""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from shards.masking import Masking, mask_rows, unmask_rows
from shards.randomness import Purpose, address, combine
from shards.schema import Ints, Offsets, Rows, lengths_to_offsets, rows_from_columns
from train.data.batches import Batches
from train.data.copying import copy_rows
from train.data.order import Places, Positions, part_of
from train.data.phase_order import PhaseOrder

_ROWS_AT_ONCE = 2048  # per gather
_CHUNKS_AHEAD = 2  # gathers that are ready or running, beside the one being served


@dataclass(frozen=True)
class StepRows:
    """A rank's rows of one step, in the order of its micro-batches, with their indices in the split and their data sets."""

    step: int
    rows: Rows
    row_ids: npt.NDArray[np.int64]
    sources: npt.NDArray[np.int32]

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

    def steps(self, batches: Batches) -> range:
        """The steps that it reads."""
        return range(self.first_step, batches.steps_of(batches.rows_before(self.first_step) + self.end - self.start))

    def start_of(self, step: int, batches: Batches) -> int:
        """The position at which a step begins."""
        return min(self.end, self.start + batches.rows_before(step) - batches.rows_before(self.first_step))


class Groups(Protocol):
    """Decoded row groups by number: `DecodedGroups` of a data set, or `SourceGroups` of several."""

    def get(self, group: int) -> Future[Rows]:
        """The rows of a group, once they are there."""

    def keep(self, needed_groups: Collection[int], position: int) -> None:
        """Forgets all other groups. `position` is where the reader is."""


def read_steps(groups: Groups, order: PhaseOrder, rank_slice: RankSlice, masking: Masking | None = None) -> Iterator[StepRows]:
    """A rank's rows of each step. With `masking` they get new masks by (seed, epoch, row), whatever masks the shards hold.

    Raises what fails in a thread. Close the iterator to end the threads; closing `groups` is left to the caller.
    """
    batches, steps_of_slice = order.batches, rank_slice.steps(order.batches)
    most = len(part_of(batches.last, rank_slice.rank, rank_slice.world_size))
    steps_at_once = max(1, _ROWS_AT_ONCE // max(1, most * batches.micro_batch))
    chunks: deque[Future[list[StepRows]]] = deque()
    gatherer = ThreadPoolExecutor(1, "gather")
    try:
        for first in range(steps_of_slice.start, steps_of_slice.stop, steps_at_once):
            steps = steps_of_slice[first - steps_of_slice.start :][:steps_at_once]
            positions = [_own_positions(order, rank_slice, step) for step in steps]
            places = order.locate(np.concatenate(positions))
            groups.keep(order.near(np.concatenate(positions)), rank_slice.start_of(first, batches))
            needed = {int(group): groups.get(int(group)) for group in np.unique(places.group)}
            cuts = lengths_to_offsets(np.array([len(part) for part in positions]))
            seeds = [source.seed for source in order.orders]
            chunks.append(gatherer.submit(_gather_steps, steps, cuts, places, needed, seeds, masking))
            if len(chunks) > _CHUNKS_AHEAD:
                yield from chunks.popleft().result()
        while chunks:
            yield from chunks.popleft().result()
    finally:
        gatherer.shutdown(wait=True, cancel_futures=True)


def _own_positions(order: PhaseOrder, rank_slice: RankSlice, step: int) -> Positions:
    """The positions of a rank's micro-batches in a step."""
    start, stop = (rank_slice.start_of(number, order.batches) for number in (step, step + 1))
    return order.positions(start, stop, order.micro_batches_of(step, rank_slice.rank, rank_slice.world_size))


def _gather_steps(
    steps: range,
    cuts: Any,
    places: Places,
    decoded: dict[int, Future[Rows]],
    seeds: Sequence[int],
    masking: Masking | None,
) -> list[StepRows]:
    rows = gather(places, {group: rows.result() for group, rows in decoded.items()})
    if masking is not None:
        rows = mask_rows(unmask_rows(rows), dynamic_mask_keys(rows, places, seeds), masking)
    return [
        StepRows(
            step,
            rows.slice(int(cuts[i]), int(cuts[i + 1])),
            places.row[cuts[i] : cuts[i + 1]],
            places.source[cuts[i] : cuts[i + 1]],
        )
        for i, step in enumerate(steps)
    ]


def dynamic_mask_keys(rows: Rows, places: Places, seeds: Sequence[int]) -> npt.NDArray[np.uint64]:
    """The key of each sequence's masks [S]: a function of its data set's seed, the epoch, the row, and its index in the row."""
    row_keys = np.empty(len(places.row), np.uint64)
    for source, seed in enumerate(seeds):
        at = np.flatnonzero(places.source == source)
        epochs, row_numbers = (values[at].astype(np.uint64) for values in (places.epoch, places.row))
        row_keys[at] = address(seed, Purpose.DYNAMIC_MASK, epochs, row_numbers)
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

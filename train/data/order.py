"""Which row is served when: a pure function of the data set's row groups, the seed, and the position.

    epoch:   shards permuted, row groups permuted inside each -> a line of N rows
    lanes:   the line cut into L lanes; lane l has ceil((N - l) / L) rows
    windows: the rows of a lane shuffled in windows, then in windows that begin half a window earlier
    serving: position g is row g // L of lane g mod L

Positions count on from epoch to epoch. Only the order of the row groups is kept in memory, and every position costs the same.

A step takes the next `global_batch` positions. Its rows, sorted by lane, are cut into micro-batches, and each rank takes
consecutive ones. So the rows of a micro-batch do not depend on the number of ranks, and a rank reads few lanes.

Shapes: U row groups of the split, R rows.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.compiled import compiled
from shards.errors import UserError
from shards.manifest import Split
from shards.randomness import Purpose, address, combine, mix
from shards.schema import Offsets, lengths_to_offsets

# Raise it when the same data, seed and batch give another order.
ORDER_VERSION = 1
MAX_LANES = 64
WINDOW_ROWS = 1024
_ROUNDS = 6  # of the Feistel network in `shuffled`; a test holds the result to a fair shuffle
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowGroups:
    """The row groups of a split in the order of its shards. The order needs nothing else of a data set."""

    shard: npt.NDArray[np.int32]  # [U] number of the shard
    in_shard: npt.NDArray[np.int32]  # [U] number of the group in its shard
    first_row: Offsets  # [U + 1] index in the split of the group's first row

    @staticmethod
    def of(split: Split) -> "RowGroups":
        """The row groups that the manifest lists."""
        counts, rows = split.shards.num_groups(), split.shards.columns["group_rows"]
        starts = lengths_to_offsets(counts).astype(np.int32)
        shard = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        in_shard = np.arange(len(rows), dtype=np.int32) - np.repeat(starts[:-1], counts)
        return RowGroups(shard, in_shard, lengths_to_offsets(rows))

    @property
    def num_rows(self) -> int:
        """The number of rows of the split."""
        return int(self.first_row[-1])

    @property
    def fingerprint(self) -> str:
        """Digest of where the groups begin and of their shards. The same rows in other groups have another order."""
        return sha256(self.first_row.tobytes() + self.shard.tobytes()).hexdigest()

    @property
    def num_shards(self) -> int:
        """The number of shards of the split."""
        return int(self.shard[-1]) + 1 if len(self.shard) else 0


@dataclass(frozen=True)
class Places:
    """Where rows are: for each its row group, its index in the group and in the split, and the epoch that serves it."""

    group: Positions  # [R]
    in_group: Positions  # [R]
    row: Positions  # [R]
    epoch: Positions  # [R]
    source: npt.NDArray[np.int32]  # [R] number of the data set; 0 where there is one


def num_lanes(num_rows: int, global_batch: int, max_lanes: int = MAX_LANES) -> int:
    """L, the number of lanes: at most `max_lanes`, and few enough that each lane has the rows of a window.

    Prefers the largest number above half that limit that divides the batch or is a multiple of it: then each micro-batch
    always comes from the same lanes.
    """
    limit = max(1, min(max_lanes, num_rows // WINDOW_ROWS))
    fitting = [n for n in range(limit // 2 + 1, limit + 1) if global_batch % n == 0 or n % global_batch == 0]
    return max(fitting, default=limit)


class Order:
    """The order in which the rows of a split are served, epoch after epoch, and how ranks share the rows of a step.

    Raises UserError when the micro-batch does not divide the global batch, or there is no row.
    """

    def __init__(
        self,
        groups: RowGroups,
        seed: int,
        global_batch: int,
        micro_batch: int,
        max_lanes: int = MAX_LANES,
        lanes: int = 0,
    ) -> None:
        """`global_batch` and `micro_batch` are in rows. `lanes`: of an order that exists; 0: by the batch."""
        if micro_batch < 1 or global_batch < 1 or global_batch % micro_batch:
            raise UserError(f"a micro-batch of {micro_batch} rows does not divide a global batch of {global_batch} rows")
        if not groups.num_rows:
            raise UserError("the split has no rows; build the data set from more documents")
        self.groups, self.seed = groups, seed
        self.global_batch, self.micro_batch = global_batch, micro_batch
        self.num_micro_batches = global_batch // micro_batch
        self.lanes = lanes or num_lanes(groups.num_rows, global_batch, max_lanes)
        self._lines: dict[int, tuple[npt.NDArray[np.int32], Offsets]] = {}

    def micro_batches_of(self, rank: int, world_size: int) -> range:
        """The micro-batches of each step that a rank takes: consecutive, as even as possible, perhaps none."""
        return part_of(self.num_micro_batches, rank, world_size)

    def positions(self, start: int, end: int, micro_batches: range) -> Positions:
        """The positions of some micro-batches of the step that begins at `start`, in the order of their rows.

        There are fewer where the run ends at `end`.
        """
        all_of_step = np.arange(min(start, end), min(start + self.global_batch, end))
        return cut(all_of_step, self.lane_of(all_of_step), micro_batches, self.micro_batch)

    def lane_of(self, positions: Positions) -> Positions:
        """The lane that serves each of the positions [R]."""
        lanes: Positions = positions % self.groups.num_rows % self.lanes
        return lanes

    def locate(self, positions: Positions) -> Places:
        """The rows at the positions [R]."""
        group, in_group = np.empty(len(positions), np.int64), np.empty(len(positions), np.int64)
        epochs = positions // self.groups.num_rows
        for epoch in np.unique(epochs).tolist():
            line, starts = self.line(epoch)
            in_epoch = epochs == epoch
            key = address(self.seed, Purpose.WINDOW, epoch)
            at, in_group[in_epoch] = _locate(positions[in_epoch] - epoch * self.groups.num_rows, starts, self.lanes, key)
            group[in_epoch] = line[at]
        source = np.zeros(len(positions), np.int32)
        return Places(group, in_group, self.groups.first_row[group] + in_group, epochs, source)

    def near(self, positions: Positions) -> set[int]:
        """The row groups in the windows around the positions: needed now or soon."""
        near: set[int] = set()
        epochs = positions // self.groups.num_rows
        for epoch in np.unique(epochs).tolist():
            line, starts = self.line(epoch)
            at = _near(positions[epochs == epoch] - epoch * self.groups.num_rows, starts, self.lanes)
            near.update(line[at].tolist())
        return near

    def line(self, epoch: int) -> tuple[npt.NDArray[np.int32], Offsets]:
        """The row groups in the order of an epoch [U], and where each begins in the epoch's line of rows [U + 1]."""
        if epoch not in self._lines:
            groups = self.groups
            shard_keys = address(self.seed, Purpose.SHARD_ORDER, epoch, np.arange(groups.num_shards, dtype=np.uint64))
            shard_places = np.empty(groups.num_shards, np.int32)
            shard_places[np.argsort(shard_keys, kind="stable")] = np.arange(groups.num_shards, dtype=np.int32)
            group_keys = address(self.seed, Purpose.GROUP_ORDER, epoch, np.arange(len(groups.shard), dtype=np.uint64))
            line = np.lexsort((group_keys, shard_places[groups.shard])).astype(np.int32)
            starts = lengths_to_offsets(np.diff(groups.first_row)[line])
            # A step may reach over the end of an epoch, so the one before is kept too.
            self._lines = {e: kept for e, kept in self._lines.items() if e == epoch - 1} | {epoch: (line, starts)}
        return self._lines[epoch]


def part_of(num_micro_batches: int, rank: int, world_size: int) -> range:
    """The micro-batches of a step that a rank takes: consecutive, as even as possible, perhaps none."""
    each, more = divmod(num_micro_batches, world_size)
    start = rank * each + min(rank, more)
    return range(start, start + each + (rank < more))


def cut(positions: Positions, lanes: Positions, micro_batches: range, micro_batch: int) -> Positions:
    """Some micro-batches of a step: its positions [R] sorted by lane [R], and cut into `micro_batch` rows each."""
    by_lane = positions[np.argsort(lanes, kind="stable")]
    return by_lane[micro_batches.start * micro_batch : micro_batches.stop * micro_batch]


@compiled
def _lane(lane: int, num_rows: int, lanes: int) -> tuple[int, int]:
    """Where a lane begins in the line of rows, and how many rows it has."""
    each, more = num_rows // lanes, num_rows % lanes
    return lane * each + min(lane, more), each + (1 if lane < more else 0)


@compiled
def _staggered_window(index: int, length: int) -> tuple[int, int, int]:
    """The number, start and end of an index's window among those that begin half a window early."""
    number = (index + WINDOW_ROWS // 2) // WINDOW_ROWS
    start = number * WINDOW_ROWS - WINDOW_ROWS // 2
    return number, max(0, start), min(length, start + WINDOW_ROWS)


@compiled
def _locate(positions: Any, starts: Any, lanes: int, key: Any) -> tuple[Any, Any]:
    """Positions in an epoch [R] -> the row group's place in the line [R], and the row's index in the group [R]."""
    num_rows = starts[-1]
    groups, rows = np.empty(len(positions), np.int64), np.empty(len(positions), np.int64)
    for p in range(len(positions)):
        lane, index = positions[p] % lanes, positions[p] // lanes
        lane_start, length = _lane(lane, num_rows, lanes)
        lane_key = combine(key, np.uint64(lane))
        number, first, last = _staggered_window(index, length)
        index = first + shuffled(index - first, last - first, combine(lane_key, np.uint64(2 * number)))
        number = index // WINDOW_ROWS
        first, last = number * WINDOW_ROWS, min(length, (number + 1) * WINDOW_ROWS)
        index = first + shuffled(index - first, last - first, combine(lane_key, np.uint64(2 * number + 1)))
        groups[p] = np.searchsorted(starts, lane_start + index, side="right") - 1
        rows[p] = lane_start + index - starts[groups[p]]
    return groups, rows


@compiled
def _near(positions: Any, starts: Any, lanes: int) -> Any:
    """Positions in an epoch [R] -> places in the line of all row groups that their two windows reach."""
    num_rows = starts[-1]
    is_near = np.zeros(len(starts) - 1, np.bool_)
    for p in range(len(positions)):
        lane_start, length = _lane(positions[p] % lanes, num_rows, lanes)
        _, first, last = _staggered_window(positions[p] // lanes, length)
        first = first // WINDOW_ROWS * WINDOW_ROWS
        last = min(length, -(-last // WINDOW_ROWS) * WINDOW_ROWS)
        group = np.searchsorted(starts, lane_start + first, side="right") - 1
        while group < len(is_near) and starts[group] < lane_start + last:
            is_near[group] = True
            group += 1
    return np.flatnonzero(is_near)


@compiled
def shuffled(index: int, size: int, key: Any) -> int:
    """The place of item `index` in the random permutation of `size` items that belongs to `key`.

    A Feistel network over the next power of four, applied again until the result is below `size` (Black and Rogaway,
    "Ciphers with arbitrary finite domains", 2002). It needs no table, and each item costs the same.
    """
    half_bits = np.uint64(0)
    while (1 << (2 * np.int64(half_bits))) < size:
        half_bits += np.uint64(1)
    half_mask = (np.uint64(1) << half_bits) - np.uint64(1)
    value = np.uint64(index)
    while True:
        left, right = value >> half_bits, value & half_mask
        for step in range(_ROUNDS):
            left, right = right, left ^ (mix(key ^ mix(right + (np.uint64(step) << np.uint64(32)))) & half_mask)
        value = (left << half_bits) | right
        if value < np.uint64(size):
            return int(value)

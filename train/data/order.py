"""Which row is served when: a pure function of the data set's row groups, the seed, and the position.

In each epoch the shards are permuted by the seed, then the row groups inside each, and that line of N rows is cut into L
lanes; lane l has ceil((N - l) / L) rows. Position g is row g // L of lane g mod L, after two window shuffles inside the
lane, staggered by half a window. Positions run on from epoch to epoch. Nothing is kept but the order of the row groups,
and no position costs more than another.

A step takes the next `global_batch` positions. Its rows, sorted by lane, are cut into micro-batches, and each rank takes
consecutive ones: so the rows of a micro-batch do not depend on the number of ranks, and a rank reads lanes of its own.

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

ORDER_VERSION = 1
"""Raised when the same data, seed and batch give another order."""
MAX_LANES = 64
WINDOW_ROWS = 1024
_ROUNDS = 6
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowGroups:
    """The row groups of a split in the order of its shards: all that the order needs of a data set."""

    shard: npt.NDArray[np.int32]  # [U] number of the shard
    in_shard: npt.NDArray[np.int32]  # [U] number of the group in its shard
    first_row: Offsets  # [U + 1] index in the split of the group's first row

    @staticmethod
    def of(split: Split) -> "RowGroups":
        """Those that the manifest lists."""
        counts = np.array([len(shard.row_groups) for shard in split.shards], np.int64)
        rows = np.array([group.rows for shard in split.shards for group in shard.row_groups], np.int64)
        starts = lengths_to_offsets(counts)
        shard = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        in_shard = np.arange(len(rows)) - np.repeat(starts[:-1], counts)
        return RowGroups(shard, in_shard.astype(np.int32), lengths_to_offsets(rows))

    @property
    def num_rows(self) -> int:
        """Rows of the split."""
        return int(self.first_row[-1])

    @property
    def fingerprint(self) -> str:
        """Digest of where the groups begin and which shard they are in: the same rows in other groups have another order."""
        return sha256(self.first_row.tobytes() + self.shard.tobytes()).hexdigest()

    @property
    def num_shards(self) -> int:
        """Shards of the split."""
        return int(self.shard[-1]) + 1 if len(self.shard) else 0


@dataclass(frozen=True)
class Places:
    """Where rows are: for each its row group, its index there, its index in the split, and the epoch it is served in."""

    group: Positions  # [R]
    in_group: Positions  # [R]
    row: Positions  # [R]
    epoch: Positions  # [R]


def num_lanes(num_rows: int, global_batch: int, max_lanes: int = MAX_LANES) -> int:
    """L: at most `max_lanes`, and so few that a lane has a window's rows; where it can be, one that a batch divides evenly.

    Of the numbers from half that limit, the largest that divides the batch or is a multiple of it: then each micro-batch
    always comes from the same lanes.
    """
    limit = max(1, min(max_lanes, num_rows // WINDOW_ROWS))
    fitting = [n for n in range(limit // 2 + 1, limit + 1) if global_batch % n == 0 or n % global_batch == 0]
    return max(fitting, default=limit)


class Order:
    """The order in which the rows of a split are served, for ever, and how a step's rows are shared by ranks.

    Raises UserError when the micro-batch does not divide the global batch, or there is no row.
    """

    def __init__(self, groups: RowGroups, seed: int, global_batch: int, micro_batch: int, max_lanes: int = MAX_LANES) -> None:
        """`global_batch` and `micro_batch` are in rows. Another `max_lanes` is another order."""
        if micro_batch < 1 or global_batch < 1 or global_batch % micro_batch:
            raise UserError(f"a micro-batch of {micro_batch} rows does not divide a global batch of {global_batch} rows")
        if not groups.num_rows:
            raise UserError("the split has no rows; build the data set from more documents")
        self.groups, self.seed = groups, seed
        self.global_batch, self.micro_batch = global_batch, micro_batch
        self.num_micro_batches = global_batch // micro_batch
        self.lanes = num_lanes(groups.num_rows, global_batch, max_lanes)
        self._lines: dict[int, tuple[npt.NDArray[np.int32], Offsets]] = {}

    def micro_batches_of(self, rank: int, world_size: int) -> range:
        """The micro-batches that a rank takes of each step: consecutive ones, as even as can be, maybe none."""
        each, more = divmod(self.num_micro_batches, world_size)
        start = rank * each + min(rank, more)
        return range(start, start + each + (rank < more))

    def positions(self, start: int, end: int, micro_batches: range) -> Positions:
        """Of the step that begins at position `start`, those of some micro-batches, in the order of their rows.

        Fewer where the run ends at `end`.
        """
        all_of_step = np.arange(min(start, end), min(start + self.global_batch, end))
        lanes = all_of_step % self.groups.num_rows % self.lanes
        by_lane = all_of_step[np.argsort(lanes, kind="stable")]
        return by_lane[micro_batches.start * self.micro_batch : micro_batches.stop * self.micro_batch]

    def locate(self, positions: Positions) -> Places:
        """The rows at the given positions."""
        group, in_group = np.empty(len(positions), np.int64), np.empty(len(positions), np.int64)
        epochs = positions // self.groups.num_rows
        for epoch in np.unique(epochs).tolist():
            line, starts = self.line(epoch)
            ours = epochs == epoch
            key = address(self.seed, Purpose.WINDOW, epoch)
            at, in_group[ours] = _locate(positions[ours] - epoch * self.groups.num_rows, starts, self.lanes, key)
            group[ours] = line[at]
        return Places(group, in_group, self.groups.first_row[group] + in_group, epochs)

    def near(self, positions: Positions) -> set[int]:
        """The row groups that lie in the windows around the positions: needed now, soon, or soon again."""
        found: set[int] = set()
        epochs = positions // self.groups.num_rows
        for epoch in np.unique(epochs).tolist():
            line, starts = self.line(epoch)
            at = _near(positions[epochs == epoch] - epoch * self.groups.num_rows, starts, self.lanes)
            found.update(line[at].tolist())
        return found

    def line(self, epoch: int) -> tuple[npt.NDArray[np.int32], Offsets]:
        """The row groups in the order of an epoch [U], and where each begins in its line of rows [U + 1]."""
        if epoch not in self._lines:
            groups = self.groups
            shard_keys = address(self.seed, Purpose.SHARD_ORDER, epoch, np.arange(groups.num_shards, dtype=np.uint64))
            shard_places = np.empty(groups.num_shards, np.int32)
            shard_places[np.argsort(shard_keys, kind="stable")] = np.arange(groups.num_shards, dtype=np.int32)
            group_keys = address(self.seed, Purpose.GROUP_ORDER, epoch, np.arange(len(groups.shard), dtype=np.uint64))
            line = np.lexsort((group_keys, shard_places[groups.shard])).astype(np.int32)
            starts = lengths_to_offsets(np.diff(groups.first_row)[line])
            self._lines = {e: kept for e, kept in self._lines.items() if e == epoch - 1} | {epoch: (line, starts)}
        return self._lines[epoch]


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
    """Positions in an epoch -> place in the line of the row group, and index of the row in it."""
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
    """Places in the line of the row groups that lie in both windows of a position."""
    num_rows = starts[-1]
    found = np.zeros(len(starts) - 1, np.bool_)
    for p in range(len(positions)):
        lane_start, length = _lane(positions[p] % lanes, num_rows, lanes)
        _, first, last = _staggered_window(positions[p] // lanes, length)
        first = first // WINDOW_ROWS * WINDOW_ROWS
        last = min(length, -(-last // WINDOW_ROWS) * WINDOW_ROWS)
        group = np.searchsorted(starts, lane_start + first, side="right") - 1
        while group < len(found) and starts[group] < lane_start + last:
            found[group] = True
            group += 1
    return np.flatnonzero(found)


@compiled
def shuffled(index: int, size: int, key: Any) -> int:
    """Where a random permutation of `size` items, named by `key`, puts the item `index`.

    A Feistel network over the next power of four, walked until it falls inside (Black and Rogaway, "Ciphers with arbitrary
    finite domains", 2002): no table, and each item costs the same.
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

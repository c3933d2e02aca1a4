"""When a machine needs which shard: the order of the rows as a cache sees it.

A shard is in use from the first position whose windows reach into it until they have reached its end for half a window: by
then its row groups have been asked for, and are kept decoded. A lane walks a shard at a time, so there are about as many
uses at once as lanes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shards.manifest import ShardInfo, Split
from shards.schema import lengths_to_offsets
from train.data.order import WINDOW_ROWS, Order, Positions


@dataclass(frozen=True)
class ShardUses:
    """ShardUses of shards, ascending in `first`: number `shard` of the split, from position `first` up to `end`."""

    shard: npt.NDArray[np.int64]  # [P]
    first: Positions  # [P]
    end: Positions  # [P]
    lanes: int  # that are walked side by side

    def ahead(self, position: int, each: int) -> list[int]:
        """The shards in use at a position and, for each lane, `each` more uses: each shard once, in order of need."""
        rest = self.end > position
        shard, first = self.shard[rest], self.first[rest]
        count = int(np.searchsorted(first, position, side="right")) + each * self.lanes
        return list(dict.fromkeys(shard[:count].tolist()))

    def next_use(self, position: int) -> dict[int, int]:
        """For each shard that will be in use: the position, not before the given one, from which it is."""
        rest = self.end > position
        shard, first = self.shard[rest], np.maximum(self.first[rest], position)
        return dict(zip(shard[::-1].tolist(), first[::-1].tolist(), strict=True))  # the first of several stays


UsesAt = Callable[[int], ShardUses]
"""The uses that a reader at a position should know of."""


def uses_in_training(order: Order, lanes: Sequence[int], end: int) -> UsesAt:
    """Of some lanes: the uses of the position's epoch and the next, up to where the run ends."""
    known: dict[int, ShardUses] = {}

    def uses(position: int) -> ShardUses:
        epoch = position // order.groups.num_rows
        if epoch not in known:
            known.clear()
            both = [uses_of_epoch(order, number, lanes) for number in (epoch, epoch + 1)]
            known[epoch] = _before(end, both)
        return known[epoch]

    return uses


def uses_in_sequence(split: Split, num_rows: int) -> UsesAt:
    """Of a reader that goes through the first rows of a split once."""
    edges = lengths_to_offsets(np.array([shard.rows for shard in split.shards], np.int64))
    uses = _before(num_rows, [ShardUses(np.arange(len(split.shards)), edges[:-1], edges[1:], 1)])
    return lambda position: uses


def _before(end: int, parts: Sequence[ShardUses]) -> ShardUses:
    shard, first, last = (np.concatenate([getattr(part, name) for part in parts]) for name in ("shard", "first", "end"))
    ours = first < end
    return ShardUses(shard[ours], first[ours], np.minimum(last[ours], end), parts[0].lanes)


def uses_of_epoch(order: Order, epoch: int, lanes: Sequence[int]) -> ShardUses:
    """Every piece of a shard that lies in one of the lanes, and when it is in use there."""
    num_rows, all_lanes = order.groups.num_rows, order.lanes
    line, starts = order.line(epoch)
    shard_of_group = order.groups.shard[line].astype(np.int64)
    begins = np.flatnonzero(np.diff(shard_of_group, prepend=-1))
    lane_edges = lengths_to_offsets(num_rows // all_lanes + (np.arange(all_lanes) < num_rows % all_lanes))
    edges = np.union1d(starts[begins], lane_edges)
    left, right = edges[:-1], edges[1:]
    shard = shard_of_group[begins[np.searchsorted(starts[begins], left, side="right") - 1]]
    lane = np.searchsorted(lane_edges, left, side="right") - 1
    lane_start, lane_end = lane_edges[lane], lane_edges[lane + 1]
    first_window, last_window = (left - lane_start) // WINDOW_ROWS, (right - 1 - lane_start) // WINDOW_ROWS
    first_index = np.maximum(0, first_window * WINDOW_ROWS - WINDOW_ROWS // 2)
    last_index = np.minimum(lane_end - lane_start, last_window * WINDOW_ROWS + WINDOW_ROWS // 2) - 1
    first, end = (epoch * num_rows + index * all_lanes + lane for index in (first_index, last_index))
    ours = np.flatnonzero(np.isin(lane, lanes))
    by_need = ours[np.argsort(first[ours], kind="stable")]
    return ShardUses(shard[by_need], first[by_need], end[by_need] + 1, len(lanes))


def lanes_of(order: Order, ranks: range, world_size: int, start: int) -> list[int]:
    """The lanes that these ranks take their rows from, in a run that begins at position `start`.

    A step across two epochs may take rows of other lanes too.
    """
    each, more = divmod(order.global_batch, order.lanes)
    micro_batches = [order.micro_batches_of(rank, world_size) for rank in (ranks[0], ranks[-1])]
    first, stop = micro_batches[0].start * order.micro_batch, micro_batches[-1].stop * order.micro_batch
    found: set[int] = set()
    for offset in range(0, order.lanes, math.gcd(order.lanes, order.global_batch, order.groups.num_rows, start)):
        rows = np.full(order.lanes, each)
        rows[(offset + np.arange(more)) % order.lanes] += 1
        edges = lengths_to_offsets(rows)
        found.update(np.flatnonzero(np.maximum(edges[:-1], first) < np.minimum(edges[1:], stop)).tolist())
    return sorted(found)


def needed_bytes(shards: Sequence[ShardInfo], lanes: int) -> int:
    """What a cache must hold at least: two shards a lane, more where a window reaches over several, at most all of them."""
    sizes = [shard.bytes for shard in shards]
    reached = WINDOW_ROWS * len(shards) / max(1, sum(shard.rows for shard in shards))  # shards of average length
    return min((1 + math.ceil(2 * reached)) * lanes * max(sizes, default=0), sum(sizes))

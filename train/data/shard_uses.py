"""When a machine needs which shard: the order of the rows as a cache sees it.

    lane 0   | shard 4      | shard 7   | shard 2 ...      A lane reads its part of the line from left to right, and all lanes
    lane 1   | shard 9   | shard 1        | shard 4 ...    advance together: there are about as many uses at once as lanes.
             ^ position                                    A shard that two lanes cut has a use in each.

A use of a shard begins with the first position whose windows reach into it. It ends half a window after they reach its end:
by then its row groups are decoded, and kept decoded.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shards.manifest import Shards, Split
from shards.schema import lengths_to_offsets
from train.data.order import WINDOW_ROWS, Order, Positions
from train.data.phase_order import PhaseOrder


@dataclass(frozen=True)
class ShardUses:
    """P uses of shards, ascending in `first`: shard number `shard` of the split, from position `first` up to `end`."""

    shard: npt.NDArray[np.int64]  # [P]
    first: Positions  # [P]
    end: Positions  # [P]
    lanes: int  # that advance together

    def ahead(self, position: int, each: int) -> list[int]:
        """The shards in use at a position, and of `each` more uses per lane. Each shard once, in order of need."""
        rest = self.end > position
        shard, first = self.shard[rest], self.first[rest]
        count = int(np.searchsorted(first, position, side="right")) + each * self.lanes
        return list(dict.fromkeys(shard[:count].tolist()))

    def next_use(self, position: int) -> dict[int, int]:
        """For each shard that is still needed: the position, from `position` on, at which its next use begins."""
        rest = self.end > position
        shard, first = self.shard[rest], np.maximum(self.first[rest], position)
        return dict(zip(shard[::-1].tolist(), first[::-1].tolist(), strict=True))  # the first of several stays


# position of a reader -> the uses that it should know of
UsesAt = Callable[[int], ShardUses]


def uses_in_phase(order: PhaseOrder, lanes: Mapping[int, Sequence[int]], end: int) -> UsesAt:
    """The uses of some lanes of some sources, in the epochs of a position and in the next ones, up to the end of the phase.

    Positions are those of the phase. Shards are numbered on from source to source, in the order of `lanes`.
    """
    num_shards = [order.orders[source].groups.num_shards for source in lanes]
    first_shards = dict(zip(lanes, lengths_to_offsets(np.array(num_shards)).tolist(), strict=False))
    kept: dict[tuple[int, ...], ShardUses] = {}

    def uses(position: int) -> ShardUses:
        epochs = tuple(order.source_position(source, position) // order.orders[source].groups.num_rows for source in lanes)
        if epochs not in kept:
            parts = [
                _in_phase(order, source, uses_of_epoch(order.orders[source], number, lanes[source]), first_shards[source])
                for source, epoch in zip(lanes, epochs, strict=True)
                for number in (epoch, epoch + 1)
            ]
            kept.clear()
            kept[epochs] = _before(end, parts, sum(map(len, lanes.values())))
        return kept[epochs]

    return uses


def _in_phase(order: PhaseOrder, source: int, uses: ShardUses, first_shard: int) -> ShardUses:
    """Uses at positions of a source, at the positions of the phase that serve them."""
    first, end = uses.first - order.firsts[source], uses.end - order.firsts[source]
    is_in = end > 0  # the others were over before the phase
    firsts = order.mixture.position(source, np.maximum(first[is_in], 0))
    ends = order.mixture.position(source, end[is_in] - 1) + 1
    return ShardUses(first_shard + uses.shard[is_in], firsts, ends, uses.lanes)


def uses_in_sequence(split: Split, num_rows: int) -> UsesAt:
    """The uses of a reader that reads the first rows of a split once, in their order."""
    edges = lengths_to_offsets(split.shards.columns["rows"])
    uses = _before(num_rows, [ShardUses(np.arange(len(split.shards)), edges[:-1], edges[1:], 1)], 1)
    return lambda position: uses


def _before(end: int, parts: Sequence[ShardUses], lanes: int) -> ShardUses:
    """The uses that begin before a position, in order."""
    shard, first, last = (np.concatenate([getattr(part, name) for part in parts]) for name in ("shard", "first", "end"))
    is_before = np.flatnonzero(first < end)
    by_need = is_before[np.argsort(first[is_before], kind="stable")]
    return ShardUses(shard[by_need], first[by_need], np.minimum(last[by_need], end), lanes)


def uses_of_epoch(order: Order, epoch: int, lanes: Sequence[int]) -> ShardUses:
    """Every piece of a shard that lies in one of the lanes, and when it is in use there.

    The line of rows is cut at the edges of shards and at the edges of lanes; each piece between two cuts is a use.
    """
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
    in_lanes = np.flatnonzero(np.isin(lane, lanes))
    by_need = in_lanes[np.argsort(first[in_lanes], kind="stable")]
    return ShardUses(shard[by_need], first[by_need], end[by_need] + 1, len(lanes))


def lanes_in_phase(order: PhaseOrder, ranks: range, world_size: int, start: int) -> dict[int, Sequence[int]]:
    """The lanes of each source that these ranks take their rows from, from position `start` of the phase on.

    All of them where sources are mixed or batches grow: then a rank's part of a step moves over the lanes.
    """
    batches = order.batches
    if len(order.orders) > 1 or batches.first < batches.last:
        return {source: range(of_source.lanes) for source, of_source in enumerate(order.orders)}
    return {0: lanes_of(order.orders[0], ranks, world_size, order.firsts[0] + start)}


def lanes_of(order: Order, ranks: range, world_size: int, start: int) -> list[int]:
    """The lanes that these ranks take their rows from, in a run that begins at position `start`.

    The rows of a step are sorted by lane, so a rank's micro-batches fall into some lanes; with which lane a step begins
    depends on its position modulo L. All positions that occur are tried. Example: L = 4, global_batch 6, micro_batch 3, two
    ranks. A step that begins in lane 0 has 2 rows of lanes 0 and 1, and 1 of lanes 2 and 3: rank 0 reads lanes 0 and 1,
    rank 1 reads 1, 2 and 3. A step across two epochs may take rows of other lanes too.
    """
    each, more = divmod(order.global_batch, order.lanes)
    micro_batches = [order.micro_batches_of(rank, world_size) for rank in (ranks[0], ranks[-1])]
    first, stop = micro_batches[0].start * order.micro_batch, micro_batches[-1].stop * order.micro_batch
    lanes: set[int] = set()
    for offset in range(0, order.lanes, math.gcd(order.lanes, order.global_batch, order.groups.num_rows, start)):
        rows = np.full(order.lanes, each)
        rows[(offset + np.arange(more)) % order.lanes] += 1
        edges = lengths_to_offsets(rows)
        lanes.update(np.flatnonzero(np.maximum(edges[:-1], first) < np.minimum(edges[1:], stop)).tolist())
    return sorted(lanes)


def needed_bytes(shards: Shards, lanes: int) -> int:
    """The minimum size of a cache: two shards per lane, more where a window reaches over several, at most all of them."""
    sizes = shards.sizes()
    shards_per_window = WINDOW_ROWS * len(shards) / max(1, shards.totals["rows"])
    return min((1 + math.ceil(2 * shards_per_window)) * lanes * max(sizes, default=0), sum(sizes))

"""The order of a phase: sources mixed, each in its own order, cut into steps and micro-batches.

    step -> positions of the phase -> mixture: source, place in it -> order of the source -> row group, row

A source continues where the phases before have left it, so each of its rows is served once in each of its epochs. Row groups
are numbered on from source to source. The rows of a step are sorted by source and lane before they are cut into micro-batches:
then a rank reads few lanes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from shards.schema import Offsets, lengths_to_offsets
from train.data.batches import Batches, batches_of
from train.data.mixture import Mixture
from train.data.order import Order, Places, Positions, cut, part_of

_MOST_LANES = 1 << 32  # more than an order has


@dataclass(frozen=True)
class PhaseOrder:
    """Positions and steps count from the start of the phase. `firsts`: where it begins in the order of each source."""

    orders: Sequence[Order]
    firsts: Sequence[int]
    mixture: Mixture
    batches: Batches

    @staticmethod
    def of_one(order: Order) -> "PhaseOrder":
        """The order of a phase that reads one data set from its start, in batches of one size."""
        return PhaseOrder([order], [0], Mixture((1,)), batches_of(order.global_batch, order.micro_batch))

    @cached_property
    def group_starts(self) -> Offsets:
        """The number of each source's first row group, and the number of all groups."""
        return lengths_to_offsets(np.array([len(order.groups.shard) for order in self.orders]))

    def micro_batches_of(self, step: int, rank: int, world_size: int) -> range:
        """The micro-batches of a step that a rank takes."""
        return part_of(self.batches.num_micro_batches(step), rank, world_size)

    def positions(self, start: int, stop: int, micro_batches: range) -> Positions:
        """The positions of some micro-batches of the step that serves the positions from `start` to `stop`."""
        positions = np.arange(min(start, stop), stop)
        lanes = np.empty(len(positions), np.int64)
        for source, order, at, in_source in self._by_source(positions):
            lanes[at] = source * _MOST_LANES + order.lane_of(in_source)
        return cut(positions, lanes, micro_batches, self.batches.micro_batch)

    def locate(self, positions: Positions) -> Places:
        """The rows at the positions [R]."""
        group, in_group, row, epoch = np.empty((4, len(positions)), np.int64)
        sources = np.empty(len(positions), np.int32)
        for source, order, at, in_source in self._by_source(positions):
            places = order.locate(in_source)
            group[at] = places.group + self.group_starts[source]
            in_group[at], row[at], epoch[at], sources[at] = places.in_group, places.row, places.epoch, source
        return Places(group, in_group, row, epoch, sources)

    def near(self, positions: Positions) -> set[int]:
        """The row groups in the windows around the positions: needed now or soon."""
        near: set[int] = set()
        for source, order, _, in_source in self._by_source(positions):
            first_group = int(self.group_starts[source])
            near.update(first_group + group for group in order.near(in_source))
        return near

    def source_position(self, source: int, position: int) -> int:
        """How many rows of a source the run has served before a position of the phase."""
        return self.firsts[source] + self.mixture.rows_before(source, position)

    def _by_source(self, positions: Positions) -> Iterator[tuple[int, Order, Any, Positions]]:
        """(source, its order, indices into `positions`, positions in the source) of each source that occurs."""
        if len(self.orders) == 1:  # the usual case needs no sorting
            yield 0, self.orders[0], slice(None), self.firsts[0] + positions
            return
        sources, places = self.mixture.locate(positions)
        for source, order in enumerate(self.orders):
            at = np.flatnonzero(sources == source)
            if len(at):
                yield source, order, at, self.firsts[source] + places[at]

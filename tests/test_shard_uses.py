"""When a shard is needed: told from the order alone, and the same that the reader finds out row by row."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from split_rows import row_groups

from shards.manifest import ShardInfo, Shards
from train.data.batches import batches_of
from train.data.mixture import Mixture
from train.data.order import WINDOW_ROWS, Order
from train.data.phase_order import PhaseOrder
from train.data.shard_uses import ShardUses, lanes_of, needed_bytes, uses_in_phase, uses_of_epoch

LARGE = st.lists(st.lists(st.integers(1, 3000), min_size=1, max_size=4), min_size=1, max_size=12)
BATCHES = st.sampled_from([(1, 1), (6, 2), (64, 8), (60, 12), (101, 101)])


@given(shards=LARGE, seed=st.integers(0, 99), batch=BATCHES, epoch=st.integers(0, 2), data=st.data())
@settings(deadline=None, max_examples=60)
def test_in_use_is_what_the_window_of_a_lane_reaches_first(
    shards: list[list[int]], seed: int, batch: tuple[int, int], epoch: int, data: st.DataObject
) -> None:
    order = Order(row_groups(shards), seed, *batch)
    num_rows = order.groups.num_rows
    position = data.draw(st.integers(0, num_rows - 1))
    uses = uses_of_epoch(order, epoch, [position % order.lanes])
    at = epoch * num_rows + position
    in_use = set(uses.shard[(uses.first <= at) & (at < uses.end)].tolist())
    assert in_use <= {int(order.groups.shard[group]) for group in order.near(np.array([at]))}
    line, starts = order.line(epoch)
    each, more = divmod(num_rows, order.lanes)
    lane, index = position % order.lanes, position // order.lanes
    window = (index + WINDOW_ROWS // 2) // WINDOW_ROWS  # what has come into reach of this half-window early one
    reached = range(window * WINDOW_ROWS, min((window + 1) * WINDOW_ROWS, each + (lane < more)))
    groups = np.searchsorted(starts, lane * each + min(lane, more) + np.array(reached, np.int64), side="right") - 1
    assert in_use == set(order.groups.shard[line[groups]].tolist())


@given(shards=LARGE, seed=st.integers(0, 99), batch=BATCHES, end=st.integers(1, 40_000))
@settings(deadline=None, max_examples=40)
def test_uses_cover_every_row_up_to_the_end(shards: list[list[int]], seed: int, batch: tuple[int, int], end: int) -> None:
    order = Order(row_groups(shards), seed, *batch)
    uses_at = uses_in_phase(PhaseOrder.of_one(order), {0: range(order.lanes)}, end)
    served = np.arange(min(end, 2 * order.groups.num_rows))
    shard = order.groups.shard[order.locate(served).group]
    uses = uses_at(0)
    assert (np.diff(uses.first) >= 0).all() and (uses.first < uses.end).all() and (uses.end <= end).all()
    for position in (served[0], served[-1], served[len(served) // 2]):
        reached = uses.first <= position
        assert shard[position] in uses.shard[reached], "it can be there before its rows are asked for"
    assert shard[0] in uses.ahead(0, 0) and uses.next_use(0)[int(shard[0])] == 0


@given(
    sources=st.lists(LARGE, min_size=2, max_size=3),
    counts=st.lists(st.integers(1, 9), min_size=3, max_size=3),
    share=st.floats(0, 1),
    data=st.data(),
)
@settings(deadline=None, max_examples=30)
def test_in_a_mixture_the_shard_of_each_row_is_in_use_at_its_position(
    sources: list[list[list[int]]], counts: list[int], share: float, data: st.DataObject
) -> None:
    """In a phase that continues each data set where another one left it; the first of them is on a disk."""
    orders = [Order(row_groups(shards), seed, 12, 3) for seed, shards in enumerate(sources)]
    firsts = [data.draw(st.integers(0, 2 * order.groups.num_rows)) for order in orders]
    phase = PhaseOrder(orders, firsts, Mixture(tuple(counts[: len(sources)])), batches_of(12, 3))
    remote = range(1, len(sources))
    uses_at = uses_in_phase(phase, {source: range(orders[source].lanes) for source in remote}, 20_000)
    first_shards = dict(zip(remote, np.cumsum([0, *(orders[source].groups.num_shards for source in remote)]), strict=False))
    start = int(share * 19_000)
    places = phase.locate(np.arange(start, start + 40))
    for position, group, source in zip(range(start, start + 40), places.group, places.source, strict=True):
        if source in first_shards:
            order, in_source = orders[source], phase.source_position(source, position)
            local = order.groups.shard[group - phase.group_starts[source]]
            own = uses_of_epoch(order, in_source // order.groups.num_rows, range(order.lanes))
            begun = (own.shard == local) & (own.first <= in_source)
            if not (begun & (own.end > firsts[source])).any():
                continue  # a use that was over before the phase: the end of a window, which the reader has or reads by itself
            shard, uses = first_shards[source] + local, uses_at(position)
            assert ((uses.shard == shard) & (uses.first <= position)).any()
            assert shard in uses.next_use(0) and len(uses.ahead(position, 0)) <= sum(
                orders[k].groups.num_shards for k in remote
            )


def test_a_plan_knows_the_position_s_epoch_and_the_next() -> None:
    order = Order(row_groups([[500]] * 6), 1, 10, 10)
    uses_at = uses_in_phase(PhaseOrder.of_one(order), {0: range(order.lanes)}, 5 * 3000 - 1)
    for epoch in range(5):
        uses = uses_at(epoch * 3000 + 17)
        assert uses.first.min() == epoch * 3000 and len(uses.shard) >= (12 if epoch < 4 else 6)
        assert uses.end.max() <= min((epoch + 2) * 3000, 5 * 3000 - 1)
        firsts = uses.next_use(epoch * 3000)
        assert set(firsts) == set(range(6)) and min(firsts.values()) == epoch * 3000


def test_ahead_is_what_is_in_use_and_so_many_uses_more_for_each_lane() -> None:
    uses = ShardUses(np.array([4, 7, 4, 2, 9, 1]), np.array([0, 1, 10, 20, 30, 40]), np.array([15, 9, 30, 50, 60, 70]), 2)
    assert uses.ahead(0, 1) == [4, 7], "one in use and two more uses, of which one is of a shard that is named already"
    assert uses.ahead(9, 1) == [4, 2], "7 is over"
    assert uses.ahead(29, 0) == [4, 2]
    assert uses.ahead(30, 1) == [2, 9, 1] and uses.ahead(70, 1) == []
    assert uses.next_use(12) == {4: 12, 2: 20, 9: 30, 1: 40} and uses.next_use(15) == {4: 15, 2: 20, 9: 30, 1: 40}


@given(
    shards=LARGE,
    micro_batches=st.integers(1, 12),
    micro_batch=st.sampled_from([1, 3, 8]),
    machines=st.integers(1, 3),
    first=st.integers(0, 30),
)
@settings(deadline=None, max_examples=60)
def test_a_machine_s_lanes_are_those_its_ranks_read(
    shards: list[list[int]], micro_batches: int, micro_batch: int, machines: int, first: int
) -> None:
    order = Order(row_groups(shards), 0, micro_batches * micro_batch, micro_batch)
    num_rows, world_size = order.groups.num_rows, 2 * machines
    for machine in range(machines):
        ranks = range(2 * machine, 2 * machine + 2)
        found = lanes_of(order, ranks, world_size, first)
        assert found == sorted(set(found)) and set(found) <= set(range(order.lanes))
        assert machines > 1 or found == list(range(order.lanes)), "alone, it reads all of them"
        for step in range(40):
            start = first + step * order.global_batch
            if start // num_rows != (start + order.global_batch - 1) // num_rows:
                continue  # across two epochs
            for rank in ranks:
                given = order.positions(start, 10**12, order.micro_batches_of(rank, world_size))
                assert set((given % num_rows % order.lanes).tolist()) <= set(found)


def test_a_machine_of_many_reads_a_part_of_the_lanes() -> None:
    order = Order(row_groups([[4096]] * 64), 0, 256, 16)
    assert order.lanes == 64
    parts = [lanes_of(order, range(4 * machine, 4 * machine + 4), 16, 0) for machine in range(4)]
    assert [len(part) for part in parts] == [16] * 4 and sorted(lane for part in parts for lane in part) == list(range(64))
    few = Order(row_groups([[4096]] * 64), 0, 8, 2)  # rows of a step are fewer than lanes
    parts = [lanes_of(few, range(machine, machine + 1), 2, 0) for machine in range(2)]
    assert [len(part) for part in parts] == [32, 32] and not set(parts[0]) & set(parts[1])


@pytest.mark.parametrize(("sizes", "lanes", "needed"), [([5, 9, 7], 1, 18), ([5, 9, 7], 4, 21), ([], 3, 0), ([3] * 100, 4, 24)])
def test_two_shards_a_lane_are_needed(sizes: list[int], lanes: int, needed: int) -> None:
    shards = Shards.of(ShardInfo("", size, "", "", 100_000, *[0] * 9, row_groups=()) for size in sizes)
    assert needed_bytes(shards, lanes) == needed
    short = Shards.of(replace(shard, rows=WINDOW_ROWS) for shard in shards)
    assert needed_bytes(short, lanes) == min(needed * 3 // 2, sum(sizes))


def test_order_of_needs_is_the_order_of_the_lanes() -> None:
    """Shards of a lane come one after the other, and the next ones of all lanes before the ones after them."""
    order = Order(row_groups([[4096]] * 64), 3, 64, 64)
    uses = uses_in_phase(PhaseOrder.of_one(order), {0: range(64)}, 2 * order.groups.num_rows)(0)
    assert sorted(uses.shard[:64].tolist()) == list(range(64)) and uses.lanes == 64
    assert all(a <= b for a, b in pairwise(uses.first.tolist()))

"""The order of rows: a bijection in every epoch, cut into micro-batches that do not know of ranks."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from split_rows import row_groups

from shards.errors import UserError
from shards.schema import lengths_to_offsets
from train.data.order import WINDOW_ROWS, Order, RowGroups, num_lanes, shuffled

SHARDS = st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=4), min_size=1, max_size=8)


def all_positions(order: Order, end: int, ranks: int = 1) -> list[list[list[int]]]:
    """Positions by step and micro-batch, put together from what each of `ranks` ranks is given."""
    steps = []
    for step in range(-(-end // order.global_batch)):
        micro_batches: list[list[int]] = []
        for rank in range(ranks):
            share = order.micro_batches_of(rank, ranks)
            given = order.positions(step * order.global_batch, end, share).tolist()
            micro_batches += [given[i * order.micro_batch : (i + 1) * order.micro_batch] for i in range(len(share))]
        steps.append(micro_batches)
    return steps


@given(shards=SHARDS, seed=st.integers(0, 2**63 - 1), batch=st.sampled_from([(1, 1), (6, 2), (64, 8), (100, 25), (101, 101)]))
@settings(deadline=None, max_examples=60)
def test_each_row_once_an_epoch_and_short_steps_only_at_the_end(
    shards: list[list[int]], seed: int, batch: tuple[int, int]
) -> None:
    order = Order(row_groups(shards), seed, *batch)
    num_rows, epochs = order.groups.num_rows, 3
    steps = all_positions(order, epochs * num_rows)
    assert all(sum(map(len, step)) == batch[0] for step in steps[:-1]) and sum(map(len, steps[-1])) > 0
    places = order.locate(np.array([p for step in steps for part in step for p in part]))
    for epoch in range(epochs):
        assert np.array_equal(np.sort(places.row[places.epoch == epoch]), np.arange(num_rows))
    assert (places.in_group < np.diff(order.groups.first_row)[places.group]).all()
    assert np.array_equal(order.groups.first_row[places.group] + places.in_group, places.row)


@given(shards=SHARDS, micro_batches=st.integers(1, 12), micro_batch=st.integers(1, 9), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=15)
def test_micro_batches_do_not_depend_on_the_number_of_ranks(
    shards: list[list[int]], micro_batches: int, micro_batch: int, seed: int
) -> None:
    order = Order(row_groups(shards), seed, micro_batches * micro_batch, micro_batch)
    end = 2 * order.groups.num_rows + 1
    alone = all_positions(order, end)
    for ranks in range(2, 9):
        assert all_positions(order, end, ranks) == alone
        shares = [len(order.micro_batches_of(rank, ranks)) for rank in range(ranks)]
        assert sum(shares) == micro_batches and max(shares) - min(shares) <= 1


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000, 1024])
def test_shuffled_is_a_permutation_named_by_its_key(size: int) -> None:
    orders = [[shuffled(i, size, np.uint64(key)) for i in range(size)] for key in range(3)]
    assert all(sorted(order) == list(range(size)) for order in orders)
    assert size < 16 or orders[0] != orders[1]


def test_shuffled_puts_each_item_everywhere() -> None:
    """Chi-squared over 64 places, 6,400 keys: 63 degrees of freedom, beyond 110 once in 5,000 runs of a fair one."""
    for item in (0, 31, 63):
        counts = np.bincount([shuffled(item, 64, np.uint64(key)) for key in range(6400)], minlength=64)
        assert ((counts - 100) ** 2 / 100).sum() < 110


def test_rows_of_a_batch_come_from_all_over_the_epoch() -> None:
    order = Order(row_groups([[500] * 4] * 40), 0, 64, 8)
    line_shards = order.groups.shard[order.locate(order.positions(3 * 64, 10**9, range(8))).group]
    assert order.lanes == 64 and len(set(line_shards.tolist())) > 20
    assert set(all_positions(order, 64)[0][0]) == set(range(8)), "the first micro-batch has the first eight lanes"


def test_epochs_and_seeds_differ_and_nothing_else_does() -> None:
    shards = [[100, 50], [150]]
    rows = [
        Order(row_groups(shards), seed, 30, 30).locate(np.arange(300) + epoch * 300).row.tolist()
        for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert rows[0] == rows[1] and rows[0] != rows[2] and rows[0] != rows[3] and rows[2] != rows[3]


def test_near_holds_what_is_needed_until_it_is_not() -> None:
    """The groups near a step are a superset of those it needs, and far fewer than all."""
    order = Order(row_groups([[512] * 8] * 64), 5, 256, 32)
    for step in (0, 17, 400, 1023):
        positions = order.positions(step * 256, 10**9, range(2))
        near = order.near(positions)
        assert set(order.locate(positions).group.tolist()) <= near
        assert len(near) <= 16 * (3 * WINDOW_ROWS // 512 + 2)


@pytest.mark.parametrize(
    ("num_rows", "batch", "lanes"), [(10, 4, 1), (5368, 16, 4), (10**6, 256, 64), (10**6, 24, 48), (10**6, 101, 64)]
)
def test_lanes(num_rows: int, batch: int, lanes: int) -> None:
    assert num_lanes(num_rows, batch) == lanes


def test_a_billion_rows_take_little_memory_at_any_position() -> None:
    shards = 15_260
    groups = RowGroups(
        np.repeat(np.arange(shards, dtype=np.int32), 32),
        np.tile(np.arange(32, dtype=np.int32), shards),
        lengths_to_offsets(np.full(shards * 32, 2048)),
    )
    assert groups.num_rows > 10**9
    Order(row_groups([[5]]), 0, 1, 1).locate(np.arange(2))  # compiles
    peaks = []
    for share in (0.0, 0.99):
        tracemalloc.start()
        order = Order(groups, 0, 4096, 64)
        places = order.locate(order.positions(int(share * groups.num_rows), 10**12, range(8)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(places.row) == 512
    assert max(peaks) < 64 << 20 and max(peaks) < 1.2 * min(peaks)


def test_golden_order() -> None:
    """Raise ORDER_VERSION when this changes: a run that goes on would serve rows twice."""
    order = Order(row_groups([[5, 3], [4], [2, 2, 2]]), 7, 6, 3)
    assert order.locate(np.arange(18)).row.tolist() == GOLDEN_SMALL
    order = Order(row_groups([[2048] * 3] * 4), 7, 64, 16)
    assert order.lanes == 16
    assert order.locate(order.positions(100 * 64, 10**9, range(1))).row.tolist() == GOLDEN_LANES


GOLDEN_SMALL = [5, 4, 13, 11, 16, 1, 14, 9, 8, 3, 12, 17, 2, 7, 15, 0, 10, 6]
GOLDEN_LANES = [20492, 21232, 20703, 20698, 22200, 22612, 22439, 22273, 24438, 23880, 24569, 23710, 19609, 19121, 19054, 19314]


@pytest.mark.parametrize(("global_batch", "micro_batch"), [(8, 3), (8, 0), (0, 1)])
def test_batches_that_do_not_divide_are_refused(global_batch: int, micro_batch: int) -> None:
    with pytest.raises(UserError, match="does not divide"):
        Order(row_groups([[4]]), 0, global_batch, micro_batch)

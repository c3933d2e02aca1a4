"""The order of a phase: each row of each data set once in each of its epochs, whatever the phases, batches and ranks."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from split_rows import row_groups

from train.data.batches import Batches
from train.data.mixture import Mixture
from train.data.order import Order
from train.data.phase_order import PhaseOrder

SHARDS = st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=3), min_size=1, max_size=4)
SOURCES = st.lists(SHARDS, min_size=1, max_size=3)


def phase_of(sources: list[list[list[int]]], counts: list[int], batches: Batches, firsts: list[int]) -> PhaseOrder:
    orders = [Order(row_groups(shards), seed, 12, 3) for seed, shards in enumerate(sources)]
    return PhaseOrder(orders, firsts, Mixture(tuple(counts[: len(sources)])), batches)


def steps_of(order: PhaseOrder, num_steps: int, ranks: int) -> list[list[list[int]]]:
    """Positions by step and micro-batch, put together from what each of `ranks` ranks is given."""
    steps = []
    for step in range(num_steps):
        start, stop = order.batches.rows_before(step), order.batches.rows_before(step + 1)
        micro_batches = []
        for rank in range(ranks):
            own = order.micro_batches_of(step, rank, ranks)
            positions = order.positions(start, stop, own).tolist()
            size = order.batches.micro_batch
            micro_batches += [positions[i * size : (i + 1) * size] for i in range(len(own))]
        steps.append(micro_batches)
    return steps


@given(sources=SOURCES, counts=st.lists(st.integers(1, 5), min_size=3, max_size=3), growth=st.integers(0, 3), data=st.data())
@settings(deadline=None, max_examples=60)
def test_each_row_of_each_source_once_in_each_of_its_epochs(
    sources: list[list[list[int]]], counts: list[int], growth: int, data: st.DataObject
) -> None:
    """Over two phases with other shares and batches: the second continues where the first has left each source."""
    served: list[list[tuple[int, int]]] = [[] for _ in sources]
    firsts = [0 for _ in sources]
    for phase_counts in (counts, counts[::-1]):
        order = phase_of(sources, phase_counts, Batches(3, 2, 2 + growth, 20), firsts)
        end = data.draw(st.integers(1, 300))
        positions = np.random.default_rng(end).permutation(end)
        places = order.locate(positions)
        for source, of_source in enumerate(served):
            own = places.source == source
            of_source += zip(places.epoch[own].tolist(), places.row[own].tolist(), strict=True)
        firsts = [order.source_position(source, end) for source in range(len(sources))]
    for of_source, shards, first in zip(served, sources, firsts, strict=True):
        num_rows = sum(map(sum, shards))
        assert len(set(of_source)) == len(of_source) == first
        assert all(0 <= row < num_rows for _, row in of_source)
        for epoch in range(first // num_rows):
            assert sum(number == epoch for number, _ in of_source) == num_rows


@given(sources=SOURCES, counts=st.lists(st.integers(1, 5), min_size=3, max_size=3), growth=st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_micro_batches_do_not_depend_on_the_number_of_ranks(
    sources: list[list[list[int]]], counts: list[int], growth: int
) -> None:
    order = phase_of(sources, counts, Batches(3, 4, 4 + growth, 10), [5, 7, 11][: len(sources)])
    alone = steps_of(order, 12, 1)
    assert sorted(position for step in alone for part in step for position in part) == list(
        range(order.batches.rows_before(12))
    )
    for ranks in range(2, 7):
        assert steps_of(order, 12, ranks) == alone


@given(shards=SHARDS, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_the_order_of_one_data_set_is_that_of_the_data_set(shards: list[list[int]], seed: int) -> None:
    alone = Order(row_groups(shards), seed, 12, 3)
    order, positions = PhaseOrder.of_one(alone), np.arange(100)
    for ours, expected in zip(vars(order.locate(positions)).values(), vars(alone.locate(positions)).values(), strict=True):
        assert np.array_equal(ours, expected)
    assert order.near(positions) == alone.near(positions)
    for start in (0, 12, 60):
        micro_batches = order.micro_batches_of(0, 1, 2)
        assert np.array_equal(order.positions(start, start + 12, micro_batches), alone.positions(start, 10**9, micro_batches))


def test_micro_batches_are_of_few_sources_and_groups_are_numbered_on() -> None:
    order = phase_of([[[40, 24]], [[30], [34]]], [1, 1], Batches(4, 4, 4, 1), [0, 0])
    assert order.group_starts.tolist() == [0, 2, 4]
    sources = [set(order.locate(np.array(part)).source.tolist()) for part in steps_of(order, 1, 1)[0]]
    assert sources == [{0}, {0}, {1}, {1}]
    places = order.locate(np.arange(64))
    assert set(places.group[places.source == 0].tolist()) == {0, 1} and set(places.group[places.source == 1].tolist()) == {2, 3}
    assert set(places.group.tolist()) <= order.near(np.arange(64))

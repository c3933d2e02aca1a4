"""Mixtures: every prefix has the rows of each data set that the shares ask for, and every position finds its row at once."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import UserError
from train.data.mixture import LONGEST_PERIOD, Mixture, mixture_of

COUNTS = st.lists(st.integers(1, 40), min_size=1, max_size=7)
WEIGHTS = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=9)


@given(counts=COUNTS, periods=st.integers(1, 3))
@settings(deadline=None, max_examples=100)
def test_every_prefix_is_within_one_row_of_the_shares(counts: list[int], periods: int) -> None:
    mixture = Mixture(tuple(counts))
    sources, places = mixture.locate(np.arange(periods * mixture.period))
    lengths = np.arange(1, len(sources) + 1)
    for source, count in enumerate(counts):
        served = np.cumsum(sources == source)
        assert (np.abs(served - lengths * count / mixture.period) < 1).all()
        assert (served[mixture.period - 1 :: mixture.period] == count * np.arange(1, periods + 1)).all()
        assert np.array_equal(places[sources == source], np.arange(served[-1])), "its rows come in their order"


@given(weights=WEIGHTS, data=st.data())
@settings(deadline=None, max_examples=30)
def test_a_position_anywhere_is_found_by_arithmetic(weights: list[float], data: st.DataObject) -> None:
    mixture = mixture_of(weights, [1.0] * len(weights))
    start = data.draw(st.integers(0, 10**12))
    positions = np.arange(start, start + 500)
    sources, places = mixture.locate(positions)
    for source in range(len(weights)):
        own = sources == source
        assert np.array_equal(mixture.position(source, places[own]), positions[own])
        before = mixture.rows_before(source, start)
        assert np.array_equal(places[own], before + np.arange(own.sum()))
        assert abs(before - start * mixture.counts[source] / mixture.period) < 1


@given(weights=WEIGHTS, data=st.data())
@settings(deadline=None, max_examples=50)
def test_weights_are_shares_of_tokens(weights: list[float], data: st.DataObject) -> None:
    means = data.draw(st.lists(st.floats(20, 500), min_size=len(weights), max_size=len(weights)))
    mixture = mixture_of(weights, means)
    tokens = np.array(mixture.counts) * means
    expected = np.array(weights) / sum(weights)
    rows = np.array(weights) / np.array(means)
    above_rounding = rows / rows.sum() > 100 / LONGEST_PERIOD
    error = np.abs(tokens / tokens.sum() / expected - 1)
    assert (error[above_rounding] < 0.01).all() and mixture.period <= LONGEST_PERIOD


def test_shares_by_hand() -> None:
    assert mixture_of([3, 1], [128, 128]) == Mixture((3, 1))
    assert mixture_of([1, 1], [128, 512]) == Mixture((52429, 13107)), "four short rows for a long one"
    assert Mixture((1, 1)).locate(np.arange(4))[0].tolist() == [0, 1, 0, 1]
    assert Mixture((3, 1)).locate(np.arange(8))[0].tolist() == [0, 0, 1, 0, 0, 0, 1, 0]
    assert Mixture((1,)).locate(np.arange(3))[1].tolist() == [0, 1, 2]


@pytest.mark.parametrize("weights", [[0.0, 1.0], [-1.0, 1.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_weights_of_nothing_are_refused(weights: list[float]) -> None:
    with pytest.raises(UserError, match="must be numbers above 0"):
        mixture_of(weights, [1.0, 1.0])


def test_a_share_that_is_too_small_is_refused_with_the_data_set() -> None:
    with pytest.raises(UserError, match="data set 2 would have less than one of 65536 rows"):
        mixture_of([1.0, 1e-6], [1.0, 1.0])

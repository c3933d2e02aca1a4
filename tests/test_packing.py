from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from prep.pairing.packing import pack


@given(st.lists(st.integers(1, 32), max_size=200), st.integers(32, 100))
@settings(deadline=None)
def test_packs_lose_and_repeat_nothing_and_hold_no_more_than_fits(lengths: list[int], capacity: int) -> None:
    array = np.array(lengths, np.int64)
    order, starts = pack(array, capacity)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert starts[0] == 0 and starts[-1] == len(lengths)
    rows = [array[order[first:last]] for first, last in pairwise(starts)]
    assert all(0 < row.sum() <= capacity for row in rows)


@given(st.lists(st.integers(1, 32), max_size=120))
@settings(deadline=None)
def test_each_row_is_what_a_plain_best_fit_makes(lengths: list[int]) -> None:
    check_plain_best_fit(lengths, 40)


@given(st.lists(st.integers(1, 1500), max_size=120), st.sampled_from([1500, 2047, 2048, 2049, 65_535]))
@settings(deadline=None)
def test_each_long_row_is_what_a_plain_best_fit_makes(lengths: list[int], capacity: int) -> None:
    check_plain_best_fit(lengths, capacity)


def check_plain_best_fit(lengths: list[int], capacity: int) -> None:
    """A fullest row with room, longest sequence first: the fill of the rows is the same whichever of equal ones is taken."""
    room: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [left for left in room if left >= length]
        if fitting:
            room[room.index(min(fitting))] -= length
        else:
            room.append(capacity - length)
    order, starts = pack(np.array(lengths, np.int64), capacity)
    sums = [sum(lengths[i] for i in order[a:b]) for a, b in pairwise(starts)]
    assert sorted(capacity - total for total in sums) == sorted(room)


def test_real_lengths_fill_rows() -> None:
    rng = np.random.default_rng(0)
    lengths = np.where(rng.random(20_000) < 0.6, 128, rng.integers(5, 129, 20_000))
    _, starts = pack(lengths, 512)
    assert lengths.sum() / (512 * (len(starts) - 1)) > 0.995

"""Batches that grow over a phase, micro-batch by micro-batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import UserError
from train.data.batches import Batches, batches_of


@given(micro=st.integers(1, 9), first=st.integers(1, 9), growth=st.integers(0, 9), num_steps=st.integers(1, 60))
def test_rows_add_up_and_grow_evenly(micro: int, first: int, growth: int, num_steps: int) -> None:
    batches = Batches(micro, first, first + growth, num_steps)
    numbers = [batches.num_micro_batches(step) for step in range(num_steps + 5)]
    assert numbers == sorted(numbers) and numbers[0] == first and numbers[num_steps:] == [first + growth] * 5
    rows = 0
    for step, number in enumerate(numbers):
        assert batches.rows_before(step) == rows and batches.steps_of(rows) == step
        assert batches.steps_of(rows + 1) == step + 1
        rows += number * micro
    counts = [numbers[:num_steps].count(number) for number in range(first, first + growth + 1)]
    assert max(counts) - min(counts) <= 1


def test_batches_of_one_size() -> None:
    batches = batches_of(12, 3)
    assert [batches.rows_before(step) for step in (0, 1, 10**9)] == [0, 12, 12 * 10**9]
    assert [batches.num_micro_batches(step) for step in (0, 10**9)] == [4, 4] and batches.steps_of(25) == 3


@pytest.mark.parametrize("values", [(8, 3), (8, 0), (0, 1), (8, 4, 14, 5)])
def test_batches_that_do_not_divide_are_refused(values: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="does not divide"):
        batches_of(*values)

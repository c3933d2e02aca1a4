"""How many rows each step of a phase has: micro-batches, whose number may grow over the phase."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from shards.errors import UserError
from shards.schema import lengths_to_offsets


@dataclass(frozen=True)
class Batches:
    """Steps of `first` micro-batches, growing to `last` in the last of `num_steps` steps: each number has as many steps.

    Steps are numbered from the start of the phase. Those after `num_steps` are as large as the last one.
    """

    micro_batch: int  # rows
    first: int
    last: int
    num_steps: int

    @cached_property
    def _starts(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """For each number of micro-batches, in order: its first step, and the rows before it."""
        sizes = np.arange(self.first, self.last + 1)
        steps = -(-np.arange(len(sizes)) * self.num_steps // len(sizes))
        rows = lengths_to_offsets(np.diff(steps) * sizes[:-1] * self.micro_batch)
        return steps, rows

    def _number(self, step: int) -> int:
        """Which of the numbers of micro-batches a step has, from 0."""
        return int(np.searchsorted(self._starts[0], step, side="right")) - 1

    def num_micro_batches(self, step: int) -> int:
        """The number of micro-batches of a step."""
        return self.first + self._number(step)

    def rows_before(self, step: int) -> int:
        """The rows of all steps before a step."""
        steps, rows = self._starts
        number = self._number(step)
        return int(rows[number]) + (step - int(steps[number])) * (self.first + number) * self.micro_batch

    def steps_of(self, rows: int) -> int:
        """The number of steps that hold `rows` rows. The last one may be short."""
        steps, starts = self._starts
        number = int(np.searchsorted(starts, rows, side="left")) - 1
        if number < 0:
            return 0
        return int(steps[number]) + -(-(rows - int(starts[number])) // ((self.first + number) * self.micro_batch))


def batches_of(global_batch: int, micro_batch: int, last_global_batch: int = 0, num_steps: int = 0) -> Batches:
    """Steps of `global_batch` rows, growing to `last_global_batch`.

    Raises UserError when the micro-batch does not divide them.
    """
    for rows in (global_batch, last_global_batch or global_batch):
        if micro_batch < 1 or rows < 1 or rows % micro_batch:
            raise UserError(f"a micro-batch of {micro_batch} rows does not divide a global batch of {rows} rows")
    first = global_batch // micro_batch
    return Batches(micro_batch, first, max(first, last_global_batch // micro_batch), num_steps)

"""Several data sets in one order: which of them has the row at a position, and how many of its rows came before.

    weights: shares of tokens -> rows of each source in a period -> a table of one period -> position -> source, place in it

The sources are interleaved evenly, so every prefix has the rows that the shares ask for, to less than one row of each source.
The rows of a source come from its own order; the mixture only counts them, and every position costs the same.

Shapes: K sources, P rows in a period, R positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.compiled import compiled
from shards.errors import UserError

# A share of rows is rounded to a multiple of 1 / this number: by less than 1 % for shares above 0.08 %.
LONGEST_PERIOD = 1 << 16
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Mixture:
    """Rows of each source in a period of `sum(counts)` positions."""

    counts: tuple[int, ...]  # [K] 1 or more

    @property
    def period(self) -> int:
        """P, the number of positions after which the sources repeat."""
        return sum(self.counts)

    @cached_property
    def _sources(self) -> npt.NDArray[np.int32]:
        """[P] the source of each position of a period."""
        sources: npt.NDArray[np.int32] = _interleave(np.array(self.counts, np.int64))
        return sources

    @cached_property
    def _positions(self) -> tuple[npt.NDArray[np.int32], ...]:
        """[K] arrays: the positions of each source in a period."""
        by_source = np.argsort(self._sources, kind="stable").astype(np.int32)
        return tuple(np.split(by_source, np.cumsum(self.counts)[:-1]))

    @cached_property
    def _places(self) -> npt.NDArray[np.int32]:
        """[P] how many rows of its source come before each position of a period."""
        places = np.empty(self.period, np.int32)
        for positions in self._positions:
            places[positions] = np.arange(len(positions), dtype=np.int32)
        return places

    def locate(self, positions: Positions) -> tuple[npt.NDArray[np.int32], Positions]:
        """Positions [R] -> the source of each [R], and how many rows of that source come before it [R]."""
        periods, rest = positions // self.period, positions % self.period
        sources = self._sources[rest]
        places = periods * np.array(self.counts, np.int64)[sources] + self._places[rest]
        return sources, places

    def position(self, source: int, places: Positions) -> Positions:
        """The inverse of `locate`: the positions of a source's rows by their number [R]."""
        count = self.counts[source]
        positions: Positions = places // count * self.period + self._positions[source][places % count]
        return positions

    def rows_before(self, source: int, position: int) -> int:
        """How many rows of a source come before a position."""
        periods, rest = divmod(position, self.period)
        return periods * self.counts[source] + int(np.searchsorted(self._positions[source], rest))


def mixture_of(weights: Sequence[float], mean_tokens: Sequence[float]) -> Mixture:
    """The mixture that has the weights as shares of tokens, for sources with the given mean tokens per row.

    Raises UserError for a weight that is not above 0, or too small beside the others.
    """
    if any(not 0.0 < weight < float("inf") for weight in weights):
        raise UserError(f"--weights is {' '.join(map(str, weights))}, must be numbers above 0, one per data set")
    rows = np.array(weights, np.float64) / np.array(mean_tokens, np.float64)
    exact = rows / rows.sum() * LONGEST_PERIOD
    counts = np.floor(exact).astype(np.int64)
    largest_rest = np.argsort(-(exact - counts), kind="stable")
    counts[largest_rest[: LONGEST_PERIOD - int(counts.sum())]] += 1
    if not counts.all():
        raise UserError(
            f"--weights: data set {int(np.argmin(counts)) + 1} would have less than one of {LONGEST_PERIOD} rows; raise its "
            "weight, or build it together with another one (`prep build --corpus-weight`)"
        )
    return Mixture(tuple(int(count) for count in counts // gcd(*counts.tolist())))


@compiled
def _interleave(counts: Any) -> Any:
    """The source of each position of a period [P], so that after n positions source k has n * counts[k] / P rows, to below 1.

    Tijdeman, "The chairman assignment problem" (Discrete Mathematics 32, 1980): of the sources that are due, the one that
    must come first. A source that lags x rows behind its share is due from x = 1 / (2K - 2) on. It never falls behind by more
    than 1 - 1 / (2K - 2).
    """
    period, most = counts.sum(), max(1, 2 * len(counts) - 2)
    sources, done = np.zeros(period, np.int32), np.zeros(len(counts), np.int64)
    for position in range(period):
        best = -1
        for k in range(len(counts)):
            if most * ((position + 1) * counts[k] - done[k] * period) < period and len(counts) > 1:
                continue
            # The source's deadline is (most * (done + 1) - 1) / counts, in units of P / most positions; compared as fractions.
            if best < 0 or (most * (done[k] + 1) - 1) * counts[best] < (most * (done[best] + 1) - 1) * counts[k]:
                best = k
        sources[position] = best
        done[best] += 1
    return sources

"""The decoded row groups of several data sets, numbered on from one to the next. See `PhaseOrder`."""

from collections.abc import Collection, Sequence
from concurrent.futures import Future

import numpy as np

from shards.schema import Offsets, Rows
from train.data.row_groups import DecodedGroups


class SourceGroups:
    """The row groups that are needed now, of every source."""

    def __init__(self, parts: Sequence[DecodedGroups], group_starts: Offsets) -> None:
        """`group_starts`: the number of each source's first row group."""
        self._parts, self._starts = parts, group_starts

    def get(self, group: int) -> Future[Rows]:
        """The rows of a group, once they are there."""
        source = int(np.searchsorted(self._starts, group, side="right")) - 1
        return self._parts[source].get(group - int(self._starts[source]))

    def keep(self, needed_groups: Collection[int], position: int) -> None:
        """Forgets all other groups. `position` is where the reader is in the phase."""
        for source, part in enumerate(self._parts):
            first, end = self._starts[source], self._starts[source + 1]
            part.keep({int(group - first) for group in needed_groups if first <= group < end}, position)

    def close(self) -> None:
        """Ends the threads after their current work."""
        for part in self._parts:
            part.close()

"""Row groups of several data sets, numbered on from one to the next."""

from collections.abc import Collection
from concurrent.futures import Future
from typing import Any, cast

import numpy as np

from shards.schema import Rows
from train.data.sources import SourceGroups


class Groups:
    """Stands in for the row groups of one data set: a group's rows are its name and its number."""

    def __init__(self, name: str) -> None:
        self.name, self.kept, self.position, self.is_closed = name, set[int](), -1, False

    def get(self, group: int) -> Future[Rows]:
        future: Future[Rows] = Future()
        future.set_result(cast(Rows, (self.name, group)))
        return future

    def keep(self, needed_groups: Collection[int], position: int) -> None:
        self.kept, self.position = set(needed_groups), position

    def close(self) -> None:
        self.is_closed = True


def test_a_group_comes_from_the_source_that_has_it_also_where_a_source_has_none() -> None:
    parts = [Groups("a"), Groups("empty"), Groups("b")]
    groups = SourceGroups(cast(Any, parts), np.array([0, 3, 3, 5]))
    assert [cast(Any, groups.get(group).result()) for group in range(5)] == [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)]


def test_each_source_keeps_its_own_groups() -> None:
    parts = [Groups("a"), Groups("b")]
    groups = SourceGroups(cast(Any, parts), np.array([0, 3, 5]))
    groups.keep({1, 2, 4}, 7)
    assert [part.kept for part in parts] == [{1, 2}, {1}] and [part.position for part in parts] == [7, 7]
    groups.close()
    assert all(part.is_closed for part in parts)

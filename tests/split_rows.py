"""Row groups and rows of a split, for tests of the order and of what reads by it."""

from pathlib import Path

import numpy as np

from shards.formats import FORMATS
from shards.manifest import Manifest
from shards.schema import Rows, concatenate, lengths_to_offsets
from train.data.order import RowGroups


def row_groups(shards: list[list[int]]) -> RowGroups:
    """Row groups with the given numbers of rows, by shard."""
    counts = [len(groups) for groups in shards]
    shard = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
    in_shard = np.concatenate([np.arange(count, dtype=np.int32) for count in counts])
    return RowGroups(shard, in_shard, lengths_to_offsets(np.array([rows for groups in shards for rows in groups])))


def all_rows(url: Path, manifest: Manifest) -> Rows:
    """The whole split, in its own order."""
    shards = manifest.splits["train"].shards
    parts = [FORMATS[manifest.settings["format"]].read(str(url / shard.path), shard.row_groups) for shard in shards]
    return concatenate(parts)

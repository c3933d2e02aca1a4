"""Benchmark of the order plan: what it costs to begin at any position of a simulated data set of 10^9 rows."""

import time
import tracemalloc
from statistics import median

import numpy as np

from benchmarks.common import say
from shards.schema import lengths_to_offsets
from train.data.order import Order, RowGroups

# A data set of 64 MB shards with rows of 512 tokens, as prep makes them.
SHARDS, GROUPS, ROWS = 15_260, 32, 2048
GLOBAL_BATCH, MICRO_BATCH, RANKS = 4096, 64, 8
REPEATS = 5


def simulated() -> RowGroups:
    """The row groups of that data set; its rows do not exist."""
    shard = np.repeat(np.arange(SHARDS, dtype=np.int32), GROUPS)
    in_shard = np.tile(np.arange(GROUPS, dtype=np.int32), SHARDS)
    return RowGroups(shard, in_shard, lengths_to_offsets(np.full(SHARDS * GROUPS, ROWS)))


def begin(groups: RowGroups, position: int) -> None:
    """What a rank does before its first rows: the plan of the epoch, its rows of a step, the groups near them."""
    order = Order(groups, 0, GLOBAL_BATCH, MICRO_BATCH)
    positions = order.positions(position, 1 << 60, order.micro_batches_of(0, RANKS))
    order.locate(positions)
    order.near(positions)


def main() -> None:
    """Prints the table."""
    say("planning 10^9 rows")
    groups = simulated()
    begin(groups, 0)  # compiles
    print(f"The plan of {groups.num_rows:,} rows in {SHARDS:,} shards, from nothing to a first step; median of {REPEATS}.\n")
    print("| position | seconds | target | peak memory | target |\n| --- | --- | --- | --- | --- |")
    for share in (0.0, 0.5, 0.99, 7.3):  # in the epoch, or in epochs
        position = int(share * groups.num_rows)
        seconds = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            begin(groups, position)
            seconds.append(time.perf_counter() - started)
        tracemalloc.start()
        begin(groups, position)
        peak = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
        print(f"| {share:.0%} of an epoch | {median(seconds):.3f} | < 2 | {peak:.0f} MB | < 64 MB |")


if __name__ == "__main__":
    main()

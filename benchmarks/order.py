"""Benchmark of the order plan: what it costs to begin at any position of 10^9 simulated rows, in one phase and in ten."""

import time
import tracemalloc
from collections.abc import Callable
from statistics import median

import numpy as np

from benchmarks.common import say
from shards.schema import lengths_to_offsets
from train.data.batches import batches_of
from train.data.mixture import mixture_of
from train.data.order import Order, RowGroups
from train.data.phase_order import PhaseOrder

# A data set of 64 MB shards with rows of 512 tokens, as prep makes them.
SHARDS, GROUPS, ROWS = 15_260, 32, 2048
GLOBAL_BATCH, MICRO_BATCH, RANKS = 4096, 64, 8
REPEATS = 5
PHASES = 10


def simulated(shards: int = SHARDS) -> RowGroups:
    """The row groups of that data set, or of a part of it; its rows do not exist."""
    shard = np.repeat(np.arange(shards, dtype=np.int32), GROUPS)
    in_shard = np.tile(np.arange(GROUPS, dtype=np.int32), shards)
    return RowGroups(shard, in_shard, lengths_to_offsets(np.full(shards * GROUPS, ROWS)))


def begin(groups: RowGroups, position: int) -> None:
    """What a rank does before its first rows: the plan of the epoch, its rows of a step, the groups near them."""
    order = Order(groups, 0, GLOBAL_BATCH, MICRO_BATCH)
    positions = order.positions(position, 1 << 60, order.micro_batches_of(0, RANKS))
    order.locate(positions)
    order.near(positions)


def begin_in_phases(sources: list[RowGroups], position: int, end: int) -> None:
    """The same in a run of ten phases, which mix the sources in other shares each and continue each where it was left."""
    firsts = [0] * len(sources)
    orders = [Order(groups, seed, GLOBAL_BATCH, MICRO_BATCH) for seed, groups in enumerate(sources)]
    rows = end // PHASES // GLOBAL_BATCH * GLOBAL_BATCH
    for phase in range(PHASES):
        mixture = mixture_of([1.0 + (phase + k) % 4 for k in range(len(sources))], [512.0] * len(sources))
        batches = batches_of(GLOBAL_BATCH, MICRO_BATCH, 2 * GLOBAL_BATCH, rows // GLOBAL_BATCH)
        order = PhaseOrder(orders, firsts, mixture, batches)
        if position < rows or phase == PHASES - 1:
            break
        firsts = [order.source_position(k, rows) for k in range(len(sources))]
        position -= rows
    step = batches.steps_of(position)
    start, stop = batches.rows_before(step), batches.rows_before(step + 1)
    positions = order.positions(start, stop, order.micro_batches_of(step, 0, RANKS))
    order.locate(positions)
    order.near(positions)


def measure(run: Callable[[], None]) -> str:
    """The columns of a table: seconds and memory, with their targets."""
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return f"{median(seconds):.3f} | < 2 | {peak:.0f} MB | < 64 MB |"


def main() -> None:
    """Prints the table."""
    say("planning 10^9 rows")
    groups, parts = simulated(), [simulated(SHARDS // 2), simulated(SHARDS // 4), simulated(SHARDS // 4)]
    num_rows = groups.num_rows
    begin(groups, 0)  # compiles
    begin_in_phases(parts, 0, num_rows)
    print(f"The plan of {num_rows:,} rows in {SHARDS:,} shards, from nothing to a first step; median of {REPEATS}.\n")
    print("| position | seconds | target | peak memory | target |\n| --- | --- | --- | --- | --- |")
    for share in (0.0, 0.5, 0.99, 7.3):  # in the epoch, or in epochs
        position = int(share * num_rows)
        print(f"| {share:.0%} of an epoch | {measure(lambda position=position: begin(groups, position))}")  # type: ignore[misc]
    for share in (0.0, 0.5, 0.99):
        position = int(share * num_rows)
        columns = measure(lambda position=position: begin_in_phases(parts, position, num_rows))  # type: ignore[misc]
        print(f"| {share:.0%} of {PHASES} phases, {len(parts)} data sets | {columns}")


if __name__ == "__main__":
    main()

"""Reads a data set through a cache: for tests, and by itself as a process for them to kill."""

import sys
import time
from collections.abc import Iterator, Sequence

from shards import storage
from shards.dataset import open_data_set
from shards.manifest import Manifest
from shards.schema import columns_sha256
from train.data.batches import batches_of
from train.data.cache import Cache
from train.data.mixture import Mixture
from train.data.order import MAX_LANES, Order, RowGroups
from train.data.phase_order import PhaseOrder
from train.data.prefetch import Prefetcher
from train.data.reader import RankSlice, StepRows, read_steps
from train.data.row_groups import DecodedGroups
from train.data.shard_uses import uses_in_phase
from train.data.sources import SourceGroups

BATCH, MICRO, SEED = 12, 3, 3


def order_of(manifest: Manifest, seed: int = SEED, max_lanes: int = MAX_LANES) -> Order:
    return Order(RowGroups.of(manifest.splits["train"]), seed, BATCH, MICRO, max_lanes)


def cached_steps(
    url: str, cache: Cache | None, epochs: int, rank: int = 0, ranks: int = 1, seed: int = SEED, max_lanes: int = MAX_LANES
) -> Iterator[StepRows]:
    manifest = open_data_set(url)
    order = order_of(manifest, seed, max_lanes)
    end = epochs * order.groups.num_rows
    phase, shards = PhaseOrder.of_one(order), manifest.splits["train"].shards
    uses_at = uses_in_phase(phase, {0: range(order.lanes)}, end)
    groups = DecodedGroups(url, manifest, "train", 2, Prefetcher(cache, [(url, shards)], uses_at, 2) if cache else None)
    try:
        yield from read_steps(groups, phase, RankSlice(rank, ranks, 0, 0, end))
    finally:
        groups.close()


def mixed_steps(urls: Sequence[str], cache: Cache | None, firsts: Sequence[int], end: int) -> Iterator[StepRows]:
    """A phase that mixes data sets and continues each of them; those that are remote go through the cache."""
    manifests = [open_data_set(url) for url in urls]
    orders = [order_of(manifest, SEED + source) for source, manifest in enumerate(manifests)]
    phase = PhaseOrder(orders, firsts, Mixture((3, 2, 1)), batches_of(BATCH, MICRO))
    remote = [source for source, url in enumerate(urls) if not storage.is_local(url)] if cache else []
    prefetcher = None
    if cache:
        shards = [(urls[source], manifests[source].splits["train"].shards) for source in remote]
        uses_at = uses_in_phase(phase, {source: range(orders[source].lanes) for source in remote}, end)
        prefetcher = Prefetcher(cache, shards, uses_at, 2)
    parts = [
        DecodedGroups(url, manifest, "train", 2, prefetcher if source in remote else None)
        for source, (url, manifest) in enumerate(zip(urls, manifests, strict=True))
    ]
    groups = SourceGroups(parts, phase.group_starts)
    try:
        yield from read_steps(groups, phase, RankSlice(0, 1, 0, 0, end))
    finally:
        groups.close()


def main(url: str, folder: str, limit: str) -> None:
    """Prints what each step is, without end, until somebody closes the standard output."""
    for given in cached_steps(url, Cache(folder, int(limit)), 10**6):
        print(given.step, columns_sha256(given.rows), flush=True)
        time.sleep(0.01)


if __name__ == "__main__":
    main(*sys.argv[1:])

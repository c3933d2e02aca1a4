"""Shards of a remote data set, fetched into the cache by threads before they are needed, in the order of the plan.

    position of the reader -> shards in use and needed next -> fetched whole, checked -> cache -> leases of the reader

The processes of a machine share the work without messages: each takes the first shard of the plan that is neither in the
cache nor being fetched. If one of them ends, the others fetch what it did not.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shards import storage
from shards.command.numbers import size
from shards.dataset import fetch_whole
from shards.errors import UserError
from shards.manifest import ShardInfo, Shards
from shards.schema import lengths_to_offsets
from shards.storage import StorageError
from train.data.cache import OVERHEAD_BYTES, Cache, Refusal
from train.data.leases import Lease, Part
from train.data.shard_uses import ShardUses, UsesAt, needed_bytes

_USES_AHEAD = 2  # per lane, beside the current ones
_POLL_S = 0.5  # delay until a process notices that another one has ended or given up
_RETRY_S = 5.0  # until a failed fetch is tried again

# A data set's URL, and its shards of a split.
Source = tuple[str, Shards]


class _Target(NamedTuple):
    url: str
    shard: ShardInfo


@dataclass(frozen=True)
class _Plan:
    position: int
    uses: ShardUses
    targets: Sequence[_Target]  # the shards that the cache should have, in order of need


class Prefetcher:
    """Keeps the cache ahead of one reader. The reader's threads call its methods; its own threads fetch."""

    def __init__(self, cache: Cache, sources: Sequence[Source], uses_at: UsesAt, threads: int) -> None:
        """`uses_at` numbers the shards on from source to source. Fetching starts with the first `move`."""
        self.cache, self._sources, self._uses_at = cache, sources, uses_at
        self._starts = lengths_to_offsets(np.array([len(shards) for _, shards in sources]))
        self._plan: _Plan | None = None
        self._not_before: dict[str, float] = {}
        self._changed, self._closed = threading.Condition(), False
        self._pool = ThreadPoolExecutor(threads, "prefetch")
        self._threads = [self._pool.submit(self._work) for _ in range(threads)]

    def move(self, position: int) -> None:
        """Tells it the reader's position. Raises what ended a thread: AlteredError, or an error of the disk."""
        self._check()
        uses = self._uses_at(position)
        targets, room = [], self.cache.limit - OVERHEAD_BYTES
        for url, shards, index in map(self._place, uses.ahead(position, _USES_AHEAD)):
            shard = shards[index]
            room -= shard.bytes
            if room < 0:
                break
            targets.append(_Target(storage.join(url, shard.path), shard))
        with self._changed:
            self._plan = _Plan(position, uses, targets)
            self._changed.notify_all()

    def _place(self, number: int) -> tuple[str, Shards, int]:
        """The data set of a shard, and its index there."""
        source = int(np.searchsorted(self._starts, number, side="right")) - 1
        return *self._sources[source], number - int(self._starts[source])

    def lease(self, shard: ShardInfo) -> Lease | None:
        """The shard, or None while the cache does not have it. Raises as `move` does."""
        self._check()
        return self.cache.lease(shard.sha256, shard.bytes)

    def _check(self) -> None:
        for thread in self._threads:
            if thread.done():
                thread.result()

    def close(self) -> None:
        """Ends the threads after their current fetch."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._pool.shutdown(wait=True)

    def _work(self) -> None:
        while not self._closed:
            plan = self._plan
            if plan is None or not self._fetch_first(plan):
                with self._changed:
                    if plan is self._plan and not self._closed:
                        self._changed.wait(_POLL_S)

    def _fetch_first(self, plan: _Plan) -> bool:
        """Fetches the first missing shard. Returns False when this thread can fetch none now."""

        def next_uses() -> Mapping[str, int]:
            uses = plan.uses.next_use(plan.position)
            places = {number: self._place(number) for number in uses}
            return {shards.digest("sha256", index): uses[number] for number, (_, shards, index) in places.items()}

        for target in plan.targets:
            digest = target.shard.sha256
            if self.cache.touch(digest) or time.monotonic() < self._not_before.get(digest, 0.0):
                continue
            part = self.cache.reserve(digest, target.shard.bytes, next_uses)
            if isinstance(part, Part):
                self._fetch(target, part)
                return True
            if part is Refusal.FULL:
                return False
            self._not_before[digest] = time.monotonic() + _POLL_S
        return False

    def _fetch(self, target: _Target, part: Part) -> None:
        """Fetches a shard into its reserved part. If the storage fails, it is tried again later.

        Such a failure is not raised: the reader can read by ranges, or gets the error itself.
        """
        published = False
        try:
            data = self._from_storage(target)
            if data is not None:
                self.cache.publish(part, target.shard.sha256, data)
                published = True
                self.cache.count(fetched_shards=1, fetched_bytes=len(data))
        finally:
            if not published:
                self.cache.drop(part)

    def _from_storage(self, target: _Target) -> bytes | None:
        try:
            return fetch_whole(*target)
        except StorageError:
            self.cache.count(failures=1)
            self._not_before[target.shard.sha256] = time.monotonic() + _RETRY_S
            return None


def open_cache(folder: str, limit: int, sources: Sequence[Source], lanes: Sequence[int]) -> Cache | None:
    """The cache of `--cache` and `--cache-bytes`. None without these flags, or when all data sets are on a disk.

    This machine's processes read so many `lanes` of each source. Raises UserError when the cache is too small for them.
    """
    if bool(folder) != bool(limit):
        present, missing = ("--cache", "--cache-bytes") if folder else ("--cache-bytes", "--cache")
        raise UserError(f"{present} is set without {missing}; set both, or none")
    remote = [(shards, count) for (url, shards), count in zip(sources, lanes, strict=True) if not storage.is_local(url)]
    if not folder or not remote:
        return None
    cache, needed = Cache(folder, limit), sum(needed_bytes(*reader) for reader in remote) + OVERHEAD_BYTES
    if limit < needed:
        raise UserError(
            f"--cache-bytes {limit} is too small for two shards of each lane that this machine reads "
            f"({sum(count for _, count in remote)} lanes); set {needed} ({size(needed)}) or more"
        )
    return cache


def not_cached(folder: str, url: str) -> list[str]:
    """A message for the user when `--cache` has no effect."""
    if folder and storage.is_local(url):
        return [f"--cache {folder}: has no effect, because {url} is on a disk"]
    return []

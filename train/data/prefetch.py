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

from shards import storage
from shards.command.numbers import size
from shards.dataset import fetch_whole
from shards.errors import UserError
from shards.manifest import ShardInfo, Shards
from shards.storage import StorageError
from train.data.cache import OVERHEAD_BYTES, Cache, Refusal
from train.data.leases import Lease, Part
from train.data.shard_uses import ShardUses, UsesAt, needed_bytes

_USES_AHEAD = 2  # per lane, beside the current ones
_POLL_S = 0.5  # delay until a process notices that another one has ended or given up
_RETRY_S = 5.0  # until a failed fetch is tried again


@dataclass(frozen=True)
class _Plan:
    position: int
    uses: ShardUses
    targets: Sequence[ShardInfo]  # the shards that the cache should have, in order of need


class Prefetcher:
    """Keeps the cache ahead of one reader of a split. The reader's threads call its methods; its own threads fetch."""

    def __init__(self, cache: Cache, url: str, shards: Shards, uses_at: UsesAt, threads: int) -> None:
        """Fetching starts with the first `move`."""
        self.cache, self._url, self._shards, self._uses_at = cache, url, shards, uses_at
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
        for shard in (self._shards[number] for number in uses.ahead(position, _USES_AHEAD)):
            room -= shard.bytes
            if room < 0:
                break
            targets.append(shard)
        with self._changed:
            self._plan = _Plan(position, uses, targets)
            self._changed.notify_all()

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
            return {self._shards.digest("sha256", number): use for number, use in plan.uses.next_use(plan.position).items()}

        for shard in plan.targets:
            digest = shard.sha256
            if self.cache.touch(digest) or time.monotonic() < self._not_before.get(digest, 0.0):
                continue
            part = self.cache.reserve(digest, shard.bytes, next_uses)
            if isinstance(part, Part):
                self._fetch(shard, part)
                return True
            if part is Refusal.FULL:
                return False
            self._not_before[digest] = time.monotonic() + _POLL_S
        return False

    def _fetch(self, shard: ShardInfo, part: Part) -> None:
        """Fetches a shard into its reserved part. If the storage fails, it is tried again later.

        Such a failure is not raised: the reader can read by ranges, or gets the error itself.
        """
        published = False
        try:
            data = self._from_storage(shard)
            if data is not None:
                self.cache.publish(part, shard.sha256, data)
                published = True
                self.cache.count(fetched_shards=1, fetched_bytes=len(data))
        finally:
            if not published:
                self.cache.drop(part)

    def _from_storage(self, shard: ShardInfo) -> bytes | None:
        try:
            return fetch_whole(storage.join(self._url, shard.path), shard)
        except StorageError:
            self.cache.count(failures=1)
            self._not_before[shard.sha256] = time.monotonic() + _RETRY_S
            return None


def open_cache(folder: str, limit: int, url: str, shards: Shards, lanes: int) -> Cache | None:
    """The cache of `--cache` and `--cache-bytes`. None without these flags, or when the data set is on a disk.

    This machine's processes read `lanes` lanes. Raises UserError when the cache is too small for them.
    """
    if bool(folder) != bool(limit):
        present, missing = ("--cache", "--cache-bytes") if folder else ("--cache-bytes", "--cache")
        raise UserError(f"{present} is set without {missing}; set both, or none")
    if not folder or storage.is_local(url):
        return None
    cache, needed = Cache(folder, limit), needed_bytes(shards, lanes) + OVERHEAD_BYTES
    if limit < needed:
        raise UserError(
            f"--cache-bytes {limit} is too small for two shards of each lane that this machine reads ({lanes} lanes); "
            f"set {needed} ({size(needed)}) or more"
        )
    return cache


def not_cached(folder: str, url: str) -> list[str]:
    """A message for the user when `--cache` has no effect."""
    if folder and storage.is_local(url):
        return [f"--cache {folder}: has no effect, because {url} is on a disk"]
    return []

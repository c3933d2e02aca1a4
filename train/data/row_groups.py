"""Row groups of a split, fetched, checked and decoded by threads before they are needed.

A shard on a disk is hashed when it is first needed and then read by ranges. One in a bucket is fetched whole, in one
request, and kept compressed while its groups are needed. With a cache it is read by ranges: from the bucket until the shard
is in the cache, then from there. A group is decoded once and kept while it is needed.
"""

from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from shards import storage
from shards.dataset import check_whole, decode, fetch_whole, read_part, sizes_of_files
from shards.errors import UserError
from shards.manifest import Manifest, ShardInfo
from shards.schema import Rows
from train.data.leases import Lease
from train.data.order import RowGroups
from train.data.prefetch import Prefetcher

_RANGES_AT_ONCE = 4  # per reader thread: ranges from a bucket are mostly waited for
# A shard's bytes, or the shard in the cache. None: the shard is read by ranges from its storage.
_Opened = memoryview | Lease | None


def check_sizes(url: str, manifest: Manifest, split: str) -> None:
    """Raises UserError that names the first shard of a split that is missing or has another size than it should."""
    sizes = sizes_of_files(url, [split])
    for path, num_bytes in manifest.splits[split].shards.lost(sizes):
        fault = f"has {sizes[path]} bytes" if path in sizes else "is missing"
        raise UserError(f"{storage.join(url, path)}: {fault}, the manifest says {num_bytes}; build it again")


class DecodedGroups:
    """The row groups that are needed now, as futures of their rows. For one thread to call; its own threads do the work."""

    def __init__(self, url: str, manifest: Manifest, split: str, threads: int, prefetcher: Prefetcher | None = None) -> None:
        """`prefetcher`: of the split's shards, if there is a cache. It ends with this object."""
        self._url, self._manifest, self._split = url, manifest, split
        self._shards = manifest.splits[split].shards
        self._groups = RowGroups.of(manifest.splits[split])
        self._prefetcher = prefetcher
        self._opened: dict[int, Future[_Opened]] = {}
        self._checked: set[str] = set()  # shards on a disk that need not be hashed again
        self._decoded: dict[int, Future[Rows]] = {}
        self._openers = ThreadPoolExecutor(threads, "shards")
        self._decoders = ThreadPoolExecutor(threads * (_RANGES_AT_ONCE if prefetcher else 1), "groups")

    def get(self, group: int) -> Future[Rows]:
        """The rows of a group of the split, once they are there; its exceptions name the shard and what is wrong."""
        if group not in self._decoded:
            shard = int(self._groups.shard[group])
            if shard not in self._opened or self._may_have_come(self._opened[shard]):
                self._opened[shard] = self._openers.submit(self._open, self._shards[shard])
            arguments = (self._shards[shard], int(self._groups.in_shard[group]), self._opened[shard])
            self._decoded[group] = self._decoders.submit(self._decode, *arguments)
        return self._decoded[group]

    def keep(self, needed_groups: Collection[int], position: int) -> None:
        """Forgets all other groups, and the shards without a needed group.

        `position` is where the reader is in the plan of the prefetcher.
        """
        self._decoded = {group: rows for group, rows in self._decoded.items() if group in needed_groups}
        shards = {int(self._groups.shard[group]) for group in needed_groups}
        for shard in [shard for shard, data in self._opened.items() if shard not in shards and data.done()]:
            if self._opened[shard].exception() is None:
                del self._opened[shard]
        if self._prefetcher:
            self._prefetcher.move(position)

    def close(self) -> None:
        """Ends the threads after their current work."""
        for pool in (self._openers, self._decoders):
            pool.shutdown(wait=True, cancel_futures=True)
        if self._prefetcher:
            self._prefetcher.close()
        self._opened.clear()  # and with it the leases

    def _may_have_come(self, opened: Future[_Opened]) -> bool:
        """Whether a shard that was not in the cache may be in it by now."""
        return self._prefetcher is not None and opened.done() and opened.exception() is None and opened.result() is None

    def _open(self, shard: ShardInfo) -> _Opened:
        """Checks a whole shard; returns its bytes where they should not be fetched again."""
        url = storage.join(self._url, shard.path)
        if self._prefetcher:
            return self._prefetcher.lease(shard)
        if not storage.is_local(url):
            return memoryview(fetch_whole(url, shard))
        if shard.path not in self._checked:
            check_whole(url, shard)
            self._checked.add(shard.path)
        return None

    def _decode(self, shard: ShardInfo, group: int, opened: Future[_Opened]) -> Rows:
        url, data = storage.join(self._url, shard.path), opened.result()
        rows = self._from_cache(shard, group, data) if isinstance(data, Lease) else None
        if rows is not None:
            return rows
        try:
            if not isinstance(data, memoryview):
                data = read_part(partial(storage.read_into, url), shard, group)
                self._count(misses=1, fetched_bytes=shard.row_groups[group].bytes)
            return decode(self._manifest, self._split, shard, data, [group])
        except (ValueError, OSError) as error:
            raise UserError(
                f"{url}: row group {group} cannot be decoded ({error}); check the data set with `prep verify`"
            ) from error

    def _from_cache(self, shard: ShardInfo, group: int, lease: Lease) -> Rows | None:
        """The rows as the cache has them; None if the disk has damaged them since the shard was checked."""
        try:
            rows = decode(self._manifest, self._split, shard, read_part(lease.read_into, shard, group), [group])
        except (ValueError, OSError, storage.StorageError):
            if self._prefetcher:
                self._prefetcher.cache.discard(lease)
            return None
        self._count(hits=1)
        return rows

    def _count(self, **more: int) -> None:
        if self._prefetcher:
            self._prefetcher.cache.count(**more)

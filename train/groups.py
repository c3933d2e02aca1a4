"""Row groups of a split, fetched, checked and decoded by threads ahead of need.

A shard on a disk is hashed when it is first needed and then read by ranges; one in a bucket is fetched whole, in one
request, and kept as it is for as long as its groups are wanted. A group is decoded once and kept likewise.
"""

from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import numpy as np

from shards import storage
from shards.errors import UserError
from shards.formats import FORMATS
from shards.manifest import Manifest, ShardInfo
from shards.schema import Rows
from train.order import RowGroups

_BLOCK_BYTES = 4 << 20


def check_sizes(url: str, manifest: Manifest, split: str) -> None:
    """Raises UserError that names the first shard of a split that is missing or has another size than it should."""
    sizes = {storage.relative(info.url, url): info.bytes for info in storage.list_files(storage.join(url, split))}
    for shard in manifest.splits[split].shards:
        if sizes.get(shard.path) != shard.bytes:
            found = f"has {sizes[shard.path]} bytes" if shard.path in sizes else "is missing"
            raise UserError(f"{storage.join(url, shard.path)}: {found}, the manifest says {shard.bytes}; build it again")


class DecodedGroups:
    """The row groups that are wanted now, as futures of their rows. For one thread to call; its own threads do the work."""

    def __init__(self, url: str, manifest: Manifest, split: str, threads: int) -> None:
        self._url, self._format = url, FORMATS[manifest.settings["format"]]
        self._shards = manifest.splits[split].shards
        self._groups = RowGroups.of(manifest.splits[split])
        self._opened: dict[int, Future[memoryview | None]] = {}
        self._decoded: dict[int, Future[Rows]] = {}
        self._openers = ThreadPoolExecutor(threads, "shards")
        self._decoders = ThreadPoolExecutor(threads, "groups")

    def get(self, group: int) -> Future[Rows]:
        """The rows of a group of the split, once they are there; its exceptions name the shard and what is wrong."""
        if group not in self._decoded:
            shard = int(self._groups.shard[group])
            if shard not in self._opened:
                self._opened[shard] = self._openers.submit(self._open, self._shards[shard])
            arguments = (self._shards[shard], int(self._groups.in_shard[group]), self._opened[shard])
            self._decoded[group] = self._decoders.submit(self._decode, *arguments)
        return self._decoded[group]

    def keep(self, wanted: Collection[int]) -> None:
        """Forgets the groups that are not wanted, and what is held of shards without a wanted one."""
        self._decoded = {group: rows for group, rows in self._decoded.items() if group in wanted}
        shards = {int(self._groups.shard[group]) for group in wanted}
        for shard in [shard for shard, data in self._opened.items() if shard not in shards and data.done()]:
            if self._opened[shard].exception() is None and self._opened[shard].result() is not None:
                del self._opened[shard]  # what was only hashed need not be hashed again

    def close(self) -> None:
        """Ends the threads after what they are at."""
        for pool in (self._openers, self._decoders):
            pool.shutdown(wait=True, cancel_futures=True)

    def _open(self, shard: ShardInfo) -> memoryview | None:
        """Checks a whole shard; returns its bytes where they should not be fetched again."""
        url = storage.join(self._url, shard.path)
        digest, data = sha256(), None
        if storage.is_local(url):
            with storage.open_read(url) as file:
                while block := file.read(_BLOCK_BYTES):
                    digest.update(block)
        else:
            data = memoryview(storage.read_bytes(url))
            digest.update(data)
        if digest.hexdigest() != shard.sha256:
            raise UserError(
                f"{url}: its sha256 is {digest.hexdigest()}, the manifest says {shard.sha256}: it was changed or damaged; "
                "build the data set again or restore that file"
            )
        return data

    def _decode(self, shard: ShardInfo, group: int, opened: Future[memoryview | None]) -> Rows:
        url = storage.join(self._url, shard.path)
        data = opened.result()
        try:
            return self._format.read(_part(url, shard, group) if data is None else data, shard.row_groups, [group])
        except (ValueError, OSError) as error:
            raise UserError(f"{url}: row group {group} cannot be decoded ({error}); `prep verify` says more") from error


def _part(url: str, shard: ShardInfo, group: int) -> memoryview:
    """A shard's bytes with only one row group and what follows the last one read; the rest is never touched memory."""
    data: Any = np.zeros(shard.bytes, np.uint8)
    wanted, last = shard.row_groups[group], shard.row_groups[-1]
    footer = last.offset + last.bytes
    for start, length in ((wanted.offset, wanted.bytes), (footer, shard.bytes - footer)):
        data[start : start + length] = np.frombuffer(storage.read_bytes(url, start, length), np.uint8)
    return memoryview(data)

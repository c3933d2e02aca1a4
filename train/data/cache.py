"""A folder of whole shards on this machine's disk, shared by its processes and never larger than its limit.

    bert-shards-cache       marks the folder as a cache; its lock is held while files are added or removed
    shard-SHA256            a whole shard; its readers hold a shared lock on it
    part-SHA256-HOST-PID    a shard that is being fetched, at its full size; the fetching process holds a lock on it

The system releases the locks of a process however it ends. So a locked file is in use, a part without a lock is a leftover,
and no clean-up is needed after a crash. Names are digests: runs and data sets can share a folder.
"""

import enum
import fcntl
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from shards import storage
from shards.errors import UserError
from train.data.leases import Lease, Part, locked_alone

MARKER = "bert-shards-cache"
_MARKER_TEXT = b"Shards by their sha256, kept by `python -m train --cache`. May be deleted when no run is at work.\n"
_CACHE_FILE = re.compile(rf"{MARKER}|shard-[0-9a-f]{{64}}|part-[0-9a-f]{{64}}-.+")
# The part of its limit that a cache needs for itself.
OVERHEAD_BYTES = len(_MARKER_TEXT)
# The next use of a shard that is in no plan.
NEVER = 2**63 - 1


@dataclass
class CacheStats:
    """What happened in this process since the last line of metrics."""

    hits: int = 0  # row groups read from the cache
    misses: int = 0  # row groups read from the storage, because their shard was not in the cache yet
    fetched_shards: int = 0  # whole ones
    fetched_bytes: int = 0  # shards and row groups
    evictions: int = 0
    damaged: int = 0  # shards that the disk altered
    failures: int = 0  # failed fetches; they are tried again


@dataclass(frozen=True)
class CachedShard:
    """A shard in the folder, as a candidate for eviction: its next use in the plan, and when a process last needed it."""

    sha256: str
    bytes: int
    next_use: int
    last_needed: float


def in_order_of_eviction(shards: Sequence[CachedShard], next_use: int) -> list[CachedShard]:
    """The shards to evict for one that is needed at `next_use`, best first; none that is needed as soon.

    The farthest next use goes first (Belady 1966). Of the shards that this plan never needs, the one that was needed longest
    ago goes first: other runs have plans of their own.
    """
    later = (shard for shard in shards if shard.next_use > next_use)
    return sorted(later, key=lambda shard: (-shard.next_use, shard.last_needed, shard.sha256))


class Refusal(enum.Enum):
    """Why a shard is not to be fetched now."""

    TAKEN = "it is in the cache, or another thread or process is fetching it"
    FULL = "the shards that would have to be evicted are in use or needed as soon"


class Cache:
    """The folder, for all threads of a process. Raises StorageError where the disk fails."""

    def __init__(self, folder: str, limit: int) -> None:
        """Writes nothing yet. Raises UserError when the folder cannot be a cache."""
        if not storage.is_local(folder):
            raise UserError(f"--cache {folder}: must be a folder on a disk of this machine")
        self.folder, self.limit = storage.local_path(folder), limit
        self._stats, self._counting = CacheStats(), threading.Lock()
        self._check()

    def count(self, **amounts: int) -> None:
        """Adds to the named counts of `CacheStats`."""
        with self._counting:
            for name, number in amounts.items():
                setattr(self._stats, name, getattr(self._stats, name) + number)

    def take_stats(self) -> CacheStats:
        """The counts since the last call."""
        with self._counting:
            stats, self._stats = self._stats, CacheStats()
        return stats

    def touch(self, digest: str) -> bool:
        """Whether the cache has the shard. If so, its time of last use is set to now."""
        with storage.translated(str(self.folder), "use"):
            try:
                os.utime(self._shard(digest))
            except FileNotFoundError:
                return False
        return True

    def lease(self, digest: str, num_bytes: int) -> Lease | None:
        """The shard, checked, or None. A shard that the disk damaged is removed."""
        path = self._shard(digest)
        with self._locked():
            try:
                lease = Lease(path)
            except FileNotFoundError:
                return None
        if lease.is_whole(digest, num_bytes):
            return lease
        self.discard(lease)
        lease.close()
        return None

    def discard(self, lease: Lease) -> None:
        """Removes a shard that the disk damaged, unless another process has replaced it."""
        with self._locked():
            if lease.is_there():
                lease.path.unlink()
                self.count(damaged=1)

    def reserve(self, digest: str, num_bytes: int, next_uses: Callable[[], Mapping[str, int]]) -> Part | Refusal:
        """Reserves the space for a shard that the caller will fetch. Evicts other shards where the space is missing.

        `next_uses` is called in that case: the positions at which the plan needs shards, by sha256.
        """
        with self._locked():
            parts = self.folder.glob(f"part-{digest}-*")
            if self._shard(digest).exists() or not all(_is_leftover(part) for part in parts):
                return Refusal.TAKEN
            files = self._files()
            excess = sum(status.st_size for status in files.values()) + num_bytes - self.limit
            if excess > 0 and not self._evict(files, digest, excess, next_uses()):
                return Refusal.FULL
            return Part(self.folder / f"part-{digest}-{socket.gethostname()}-{os.getpid()}", num_bytes)

    def drop(self, part: Part) -> None:
        """Frees the space of a shard that was not fetched."""
        with self._locked():
            part.drop()

    def publish(self, part: Part, digest: str, data: bytes) -> None:
        """Writes the bytes of a fetched and checked shard, and makes it a shard of the cache."""
        part.write(data)
        with self._locked():
            part.rename(self._shard(digest))

    def _shard(self, digest: str) -> Path:
        return self.folder / f"shard-{digest}"

    def _check(self) -> None:
        with storage.translated(str(self.folder), "use"):
            names = os.listdir(self.folder) if self.folder.exists() else []  # noqa: PTH208  # a file is an error
        if names and MARKER not in names:
            raise UserError(f"--cache {self.folder}: holds other files ({min(names)}); choose a new or an empty folder")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the folder's lock. Creates the folder if necessary."""
        with storage.translated(str(self.folder), "use"):
            try:
                marker = os.open(self.folder / MARKER, os.O_RDWR)
            except FileNotFoundError:
                self._check()
                self.folder.mkdir(parents=True, exist_ok=True)
                marker = os.open(self.folder / MARKER, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(marker, fcntl.LOCK_EX)
                if not os.fstat(marker).st_size:
                    os.write(marker, _MARKER_TEXT)
                yield
            finally:
                os.close(marker)

    def _files(self) -> dict[str, os.stat_result]:
        """Every file of the cache by name. Removes leftovers."""
        files = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if not _CACHE_FILE.fullmatch(entry.name):
                    continue
                if entry.name.startswith("part-") and _is_leftover(Path(entry.path)):
                    Path(entry.path).unlink()
                else:
                    files[entry.name] = entry.stat()
        return files

    def _evict(self, files: Mapping[str, os.stat_result], digest: str, excess: int, next_uses: Mapping[str, int]) -> bool:
        """Removes shards that are not in use until `excess` bytes are free. Removes none, and returns False, if that fails."""
        shards = []
        for name, status in files.items():
            if name.startswith("shard-"):
                other = name.removeprefix("shard-")
                shards.append(CachedShard(other, status.st_size, next_uses.get(other, NEVER), status.st_mtime))
        with ExitStack() as handles:
            victims = []
            for shard in in_order_of_eviction(shards, next_uses[digest]):
                if excess <= 0:
                    break
                handle = os.open(self._shard(shard.sha256), os.O_RDWR)  # some systems lock exclusively only a writable file
                handles.callback(os.close, handle)
                if locked_alone(handle):
                    victims.append(shard)
                    excess -= shard.bytes
            if excess > 0:
                return False
            for shard in victims:
                self._shard(shard.sha256).unlink()
        self.count(evictions=len(victims))
        return True


def _is_leftover(part: Path) -> bool:
    """Whether the process that fetched it has ended."""
    handle = os.open(part, os.O_RDWR)
    try:
        return locked_alone(handle)
    finally:
        os.close(handle)

"""Files of the cache in use: a shard that is read, and one that is being fetched. Each holds a lock while it exists."""

import fcntl
import os
import weakref
from hashlib import sha256
from pathlib import Path

from shards import storage
from shards.storage import StorageError

_BLOCK_BYTES = 4 << 20


class Lease:
    """A shard that cannot be evicted while this object exists."""

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError."""
        self.path, self._handle = path, os.open(path, os.O_RDONLY)
        self._end = weakref.finalize(self, os.close, self._handle)
        fcntl.flock(self._handle, fcntl.LOCK_SH)

    def read_into(self, start: int, out: memoryview) -> None:
        """Fills `out` with the bytes from `start`."""
        done = 0
        with storage.translated(str(self.path), "read"):
            while done < len(out) and (num_bytes := os.preadv(self._handle, [out[done:]], start + done)):
                done += num_bytes
        if done < len(out):
            raise StorageError(f"{self.path}: was truncated while in use; run the same command again")

    def is_whole(self, digest: str, num_bytes: int) -> bool:
        """Whether it has this size and sha256."""
        with storage.translated(str(self.path), "read"):
            if os.fstat(self._handle).st_size != num_bytes:
                return False
            actual, at = sha256(), 0
            while block := os.pread(self._handle, _BLOCK_BYTES, at):
                actual.update(block)
                at += len(block)
        return actual.hexdigest() == digest

    def is_there(self) -> bool:
        """Whether its path still names this file."""
        return self.path.exists() and os.path.samestat(self.path.stat(), os.fstat(self._handle))

    def close(self) -> None:
        """Gives the lock back now."""
        self._end()


class Part:
    """A shard that is being fetched: a file of its full size. Hold the folder's lock for everything except `write`."""

    def __init__(self, path: Path, num_bytes: int) -> None:
        """Allocates the space."""
        self._path, self._handle = path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX)
            os.posix_fallocate(self._handle, 0, num_bytes)
        except BaseException:
            self.drop()
            raise

    def write(self, data: bytes) -> None:
        """Writes all bytes of the shard."""
        view, at = memoryview(data), 0
        with storage.translated(str(self._path), "write"):
            while at < len(view):
                at += os.pwrite(self._handle, view[at : at + _BLOCK_BYTES], at)

    def rename(self, path: Path) -> None:
        """Makes it a shard of the cache."""
        self._path.replace(path)
        os.close(self._handle)

    def drop(self) -> None:
        """Removes the file and frees its space."""
        self._path.unlink(missing_ok=True)
        os.close(self._handle)


def locked_alone(handle: int) -> bool:
    """Locks a file unless another has a lock on it. Returns whether it did."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

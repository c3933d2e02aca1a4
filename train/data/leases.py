"""Files of the cache in use: a shard that is read, and one that is being fetched. Each holds a lock for as long as it lives."""

import fcntl
import os
import weakref
from hashlib import sha256
from pathlib import Path

from shards import storage
from shards.storage import StorageError

_BLOCK_BYTES = 4 << 20


class Lease:
    """A shard that cannot be evicted while this object lives."""

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError."""
        self.path, self._handle = path, os.open(path, os.O_RDONLY)
        self._end = weakref.finalize(self, os.close, self._handle)
        fcntl.flock(self._handle, fcntl.LOCK_SH)

    def read(self, start: int, length: int) -> bytes:
        """A range of its bytes."""
        with storage.translated(str(self.path), "read"):
            data = os.pread(self._handle, length, start)
            while len(data) < length and (more := os.pread(self._handle, length - len(data), start + len(data))):
                data += more
        if len(data) < length:
            raise StorageError(f"{self.path}: was cut short while it was in use; run the same command again")
        return data

    def is_whole(self, digest: str, num_bytes: int) -> bool:
        """Whether it has the size and the sha256 that it should have."""
        with storage.translated(str(self.path), "read"):
            if os.fstat(self._handle).st_size != num_bytes:
                return False
            found, at = sha256(), 0
            while block := os.pread(self._handle, _BLOCK_BYTES, at):
                found.update(block)
                at += len(block)
        return found.hexdigest() == digest

    def is_there(self) -> bool:
        """Whether its path still leads to it."""
        return self.path.exists() and os.path.samestat(self.path.stat(), os.fstat(self._handle))

    def close(self) -> None:
        """Ends it before its time."""
        self._end()


class Part:
    """A shard that is being fetched: a file as large as it will be. Everything but `write` wants the folder's lock."""

    def __init__(self, path: Path, num_bytes: int) -> None:
        """Takes the space."""
        self._path, self._handle = path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX)
            os.posix_fallocate(self._handle, 0, num_bytes)
        except BaseException:
            self.drop()
            raise

    def write(self, data: bytes) -> None:
        """The shard's bytes, all of them."""
        view, at = memoryview(data), 0
        with storage.translated(str(self._path), "write"):
            while at < len(view):
                at += os.pwrite(self._handle, view[at : at + _BLOCK_BYTES], at)

    def rename(self, path: Path) -> None:
        """It is a shard from here on."""
        self._path.replace(path)
        os.close(self._handle)

    def drop(self) -> None:
        """Gives the space back."""
        self._path.unlink(missing_ok=True)
        os.close(self._handle)


def locked_alone(handle: int) -> bool:
    """Locks a file if nobody else has."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""File objects whose errors are StorageErrors: one on a disk, one that comes from a server in blocks."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shards.storage.faults import translated


def local_file(path: Path, url: str) -> io.RawIOBase:
    """A file on a disk. Opening and reading it raise StorageError."""
    with translated(url, "read"):
        return _LocalFile(path, url)


def remote_file(fetch: Callable[[int, int], bytes], num_bytes: int, block_bytes: int) -> io.RawIOBase:
    """A file of `num_bytes`, of which `fetch(start, length)` returns a part."""
    return _RemoteFile(fetch, num_bytes, block_bytes)


class _LocalFile(io.RawIOBase):
    """Turns the errors of a disk into StorageErrors."""

    def __init__(self, path: Path, url: str) -> None:
        self._raw, self._url = open(path, "rb", buffering=0), url  # noqa: SIM115  # closed with this

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        with translated(self._url, "read"):
            return self._raw.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        with translated(self._url, "read"):
            return self._raw.readinto(buffer) or 0

    def close(self) -> None:
        self._raw.close()
        super().close()


class _RemoteFile(io.RawIOBase):
    """Keeps one block of the file."""

    def __init__(self, fetch: Callable[[int, int], bytes], num_bytes: int, block_bytes: int) -> None:
        self._fetch, self._num_bytes, self._block_bytes = fetch, num_bytes, block_bytes
        self._position = self._start = 0
        self._block = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._num_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self._num_bytes:
            return 0
        if not self._start <= self._position < self._start + len(self._block):
            self._start = self._position // self._block_bytes * self._block_bytes
            self._block = self._fetch(self._start, min(self._block_bytes, self._num_bytes - self._start))
        at = self._position - self._start
        data = memoryview(self._block)[at : at + len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

"""URLs: open, list, publish atomically, translate errors. The only module that knows fsspec.

A URL is a local path, `file://...`, or anything fsspec has a filesystem for. Whatever a backend raises leaves here as a
StorageError that names the URL and the remedy.
"""

import errno
import fcntl
import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from fsspec.core import url_to_fs
from fsspec.utils import get_protocol

from shards import disk
from shards.disk import FileInfo
from shards.errors import UserError

_ATTEMPTS = 4
_BACKOFF_S = 0.5
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "adl": "azure", "abfss": "azure"}
_BUFFER_BYTES = 1 << 20
_BLOCK_BYTES = 8 << 20
Value = TypeVar("Value")


class StorageError(UserError):
    """Something could not be read or written: the URL, why, and what to do."""


class MissingError(StorageError):
    """There is nothing at the URL."""


def is_local(url: str) -> bool:
    """Whether the URL lies on a mounted disk."""
    return get_protocol(url) in ("file", "local")


def local_path(url: str) -> Path:
    """The path of a local URL."""
    return Path(url.removeprefix("file://").removeprefix("local://"))


def join(url: str, *names: str) -> str:
    """A URL below another."""
    return "/".join((url.rstrip("/") or ("/" if url else "."), *names))


def relative(url: str, folder: str) -> str:
    """What of a URL is below the folder, with forward slashes."""
    return absolute(url).removeprefix(absolute(folder)).lstrip("/")


def absolute(url: str) -> str:
    """The URL in the one form that listings have: for a local one the absolute path, links as they are."""
    if not is_local(url):
        fs, path = _filesystem(url)
        return cast(str, fs.unstrip_protocol(path)).rstrip("/")
    return os.path.abspath(local_path(url))  # noqa: PTH100  # resolve() would replace links by what they point to


def read_bytes(url: str, start: int = 0, length: int | None = None) -> bytes:
    """The content, or `length` bytes of it from `start`. Raises StorageError, also when the file is shorter than that."""
    if is_local(url):
        with translated(url, "read"), open(local_path(url), "rb") as file:
            file.seek(start)
            data = file.read() if length is None else file.read(length)
    else:
        fs, path = _filesystem(url)
        end = None if length is None else start + length
        data = _retried(url, "read", lambda: cast(bytes, fs.cat_file(path, start=start, end=end)))
    if length is not None and len(data) != length:
        raise StorageError(f"{url}: ends at byte {start + len(data)}, expected {start + length}; it is damaged, rebuild it")
    return data


def read_ranges(ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
    """What `read_bytes` gives for each (URL, start, length); all at once where each is a request over a network.

    The URLs are of one storage.
    """
    wanted = [each for each in ranges if each[2]]
    parts: dict[tuple[str, int, int], Any] = {}
    if wanted and not is_local(wanted[0][0]):
        fs, _ = _filesystem(wanted[0][0])
        paths = [_filesystem(url)[1] for url, _, _ in wanted]
        starts, ends = [start for _, start, _ in wanted], [start + length for _, start, length in wanted]
        with suppress(Exception):  # each backend raises its own kinds; what is lacking is read again, one by one
            parts = dict(zip(wanted, fs.cat_ranges(paths, starts, ends, on_error="return"), strict=True))
    return [_checked(parts.get(each), each) if each[2] else b"" for each in ranges]


def _checked(part: Any, wanted: tuple[str, int, int]) -> bytes:
    return part if isinstance(part, bytes) and len(part) == wanted[2] else read_bytes(*wanted)


@contextmanager
def open_read(url: str) -> Iterator[BinaryIO]:
    """A seekable binary file.

    Whatever fails in the storage, on opening or while reading, is a StorageError; so any other error that a decoder of
    the stream raises is about the content.
    """
    if is_local(url):
        with translated(url, "read"):
            raw: Any = open(local_path(url), "rb", buffering=0)  # noqa: SIM115  # closed below
    else:
        fs, path = _filesystem(url)
        raw = _retried(url, "open", lambda: fs.open(path, "rb", block_size=_BLOCK_BYTES))
    with raw, io.BufferedReader(_Stream(raw, url), _BUFFER_BYTES) as file:
        yield file


class _Stream(io.RawIOBase):
    """A file of any backend whose errors are StorageErrors."""

    def __init__(self, raw: Any, url: str) -> None:
        self._raw, self._url = raw, url

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return cast(int, self._raw.tell())

    def seek(self, offset: int, whence: int = 0) -> int:
        with translated(self._url, "read"):
            return cast(int, self._raw.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        with translated(self._url, "read"):
            return cast(int, self._raw.readinto(buffer))


def publish(url: str, data: bytes | bytearray | memoryview, first: bool = False) -> None:
    """Writes a whole file so that it is there complete or not at all, replacing what was there; if `first`, leaving that.

    On a disk only one of two that would be first is; elsewhere both may have looked before either wrote.
    """
    if is_local(url):
        with translated(url, "write"):
            disk.publish(local_path(url), data, first)
        return
    fs, path = _filesystem(url)
    if not first or not find(url):
        _retried(url, "write", lambda: fs.pipe_file(path, bytes(data)))


def find(url: str) -> FileInfo | None:
    """The file at `url`, or None where there is none (a folder is none)."""
    if is_local(url):
        with translated(url, "look at"):
            return disk.find(local_path(url))
    fs, path = _filesystem(url)
    try:
        entry = _retried(url, "look at", lambda: fs.info(path))
    except MissingError:
        return None
    return _remote_info(fs, entry) if entry["type"] == "file" else None


def list_files(url: str) -> list[FileInfo]:
    """Every file in a folder and below, sorted by URL; an empty list where there is no such folder.

    Files that are being published are left out, and so is what is no regular file.
    """
    if is_local(url):
        with translated(url, "list"):
            infos = list(disk.list_files(local_path(url)))
    else:
        fs, path = _filesystem(url)
        infos = _remote_infos(fs, _retried(url, "list", lambda: fs.find(path, detail=True)))
    return sorted(infos, key=lambda info: info.url)


def glob(pattern: str) -> list[FileInfo]:
    """Every file that matches the pattern (`*`, `?`, `[...]`, `**`), sorted by URL."""
    fs, path = _filesystem(pattern)
    found = _retried(pattern, "list", lambda: fs.glob(path, detail=True))
    if is_local(pattern):
        with translated(pattern, "list"):
            infos = [info for name in found if (info := disk.find(Path(name)))]
    else:
        infos = _remote_infos(fs, found)
    return sorted(infos, key=lambda info: info.url)


def remove(url: str) -> None:
    """Removes a file, or a folder with all that is in it; nothing where there is none. Never takes a name for a pattern."""
    if is_local(url):
        with translated(url, "remove"):
            disk.remove(local_path(url))
        return
    for name in [info.url for info in list_files(url)] or [url]:
        fs, path = _filesystem(name)
        with suppress(MissingError):
            _retried(name, "remove", partial(fs.rm_file, path))


def tidy(url: str, empty_folders: bool = False) -> None:
    """Removes what dead processes left half-written below a local folder and, if asked, folders that hold nothing."""
    if is_local(url):
        with translated(url, "clean"):
            disk.remove_abandoned(local_path(url))
            if empty_folders:
                disk.remove_empty_folders(local_path(url))


@contextmanager
def locked(url: str, name: str, what: str, shared: bool = False) -> Iterator[None]:
    """Keeps other processes of this kind out of a local folder, by a lock on the file `name` in it that ends with the process.

    Several may share it, which keeps out those that do not. Elsewhere there is no such lock. Raises StorageError, saying
    `what` is at work there.
    """
    if not is_local(url):
        yield
        return
    with translated(url, "write"):
        path = local_path(url) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, "a+")  # noqa: SIM115  # held until the end
    with lock:
        with translated(url, "lock"):
            try:
                fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StorageError(f"{url}: another {what} is at work there; wait for it or choose another") from None
        yield


def _remote_infos(fs: Any, entries: dict[str, dict[str, Any]]) -> list[FileInfo]:
    return [_remote_info(fs, entry) for entry in entries.values() if entry["type"] == "file"]


def _remote_info(fs: Any, entry: dict[str, Any]) -> FileInfo:
    names = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")
    version = next((str(entry[name]) for name in names if entry.get(name)), "")
    url = cast(str, fs.unstrip_protocol(entry["name"]))
    if entry.get("size") is None:
        raise StorageError(f"{url}: its server does not say how large it is; fetch it to a disk first")
    return FileInfo(url, int(entry["size"]), version)


def _filesystem(url: str) -> tuple[Any, str]:
    protocol = get_protocol(url)
    try:
        return cast(tuple[Any, str], url_to_fs(url, **({} if is_local(url) else {"use_listings_cache": False})))
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        remedy = f"install the extra: pip install '.[{extra}]'" if extra else str(error)
        raise StorageError(f"{url}: the package for {protocol}:// is missing; {remedy}") from error
    except ValueError as error:
        known = "a local path, file://, s3://, gs://, az://, https://"
        raise StorageError(f"{url}: {protocol}:// is no known kind of storage; use {known} or another of fsspec's") from error
    except Exception as error:  # a backend may fail in any way while it is set up
        raise _storage_error(url, "open", error) from error


def _retried(url: str, doing: str, action: Callable[[], Value]) -> Value:
    """`action`, with back-off after faults that may pass."""
    for attempt in range(_ATTEMPTS):
        try:
            return action()
        except Exception as error:  # each backend raises its own kinds; this is their border
            final = isinstance(error, FileNotFoundError | PermissionError) or is_local(url)
            if final or attempt == _ATTEMPTS - 1:
                raise _storage_error(url, doing, error) from error
            time.sleep(_BACKOFF_S * 2**attempt)
    raise AssertionError("unreachable")


@contextmanager
def translated(url: str, doing: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes a StorageError about `url`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each backend raises its own kinds; this is their border
        raise _storage_error(url, doing, error) from error


def _storage_error(url: str, doing: str, error: Exception) -> StorageError:
    number = getattr(error, "errno", None)
    reason = os.strerror(number) if number else " ".join(f"{type(error).__name__}: {error}".split())
    remedies: dict[int | None, str] = {
        errno.ENOSPC: "free some space and run the same command again",
        errno.EDQUOT: "free some space and run the same command again",
        errno.EFBIG: "the file system cannot hold a file of that size; use another",
        errno.EACCES: "check its permissions",
        errno.EROFS: "choose another place",
        errno.ENOENT: "check the path",
        errno.ENOTDIR: "check the path: a part of it is a file",
    }
    remedy = remedies.get(number, "check that it exists and that you may use it, then run the same command again")
    kind = MissingError if isinstance(error, FileNotFoundError) else StorageError
    place = getattr(error, "filename", None) if doing in ("list", "clean") else None
    return kind(f"{place or url}: cannot {doing} it: {reason}; {remedy}")

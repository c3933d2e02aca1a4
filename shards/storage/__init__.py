"""URLs: open, list, publish atomically. The only module that knows fsspec.

A URL is a local path, `file://...`, or anything fsspec has a filesystem for. Whatever a backend raises leaves here as a
StorageError that names the URL and the remedy (`faults`), after what may pass was waited for. Nothing waits for ever: a
request to a server is ended when it takes longer than its size allows.
"""

import fcntl
import io
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from fsspec.asyn import sync
from fsspec.core import url_to_fs
from fsspec.registry import get_filesystem_class
from fsspec.utils import get_protocol

from shards.storage import disk
from shards.storage.blocks import local_file, remote_file
from shards.storage.disk import FileInfo
from shards.storage.faults import BusyError as BusyError
from shards.storage.faults import MissingError as MissingError
from shards.storage.faults import StorageError as StorageError
from shards.storage.faults import may_pass, retried, storage_error
from shards.storage.faults import translated as translated

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "adl": "azure", "abfss": "azure"}
_EXTRAS |= {"http": "http", "https": "http"}
_BUFFER_BYTES = 1 << 20
_BLOCK_BYTES = 8 << 20
_PART_BYTES = 64 << 20
"""A larger object is fetched in requests of this size, so that a cut connection costs one part."""
_ANSWER_S, _LISTING_S, _WHOLE_S, _SLOWEST_BYTES_PER_S = 60.0, 3600.0, 3600.0, 250_000
_CONNECT_S, _SILENCE_S = 10, 30


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
    elif length is None:
        return _read_rest(url, start)
    else:
        data = _read_range(url, start, length)
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
        limit_s = _seconds(sum(length for _, _, length in wanted))
        with suppress(Exception):  # each backend raises its own kinds; what is lacking is read again, one by one
            found = _call(fs, "cat_ranges", limit_s, paths, starts, ends, on_error="return")
            parts = dict(zip(wanted, found, strict=True))
    return [_whole(parts.get(each), each) if each[2] else b"" for each in ranges]


def _whole(part: Any, wanted: tuple[str, int, int]) -> bytes:
    return part if isinstance(part, bytes) and len(part) == wanted[2] else read_bytes(*wanted)


def _read_range(url: str, start: int, length: int) -> bytes:
    fs, path = _filesystem(url)
    stop = start + length
    try:
        parts = [_read_part(fs, path, url, at, min(_PART_BYTES, stop - at)) for at in range(start, stop, _PART_BYTES)]
    except MissingError:
        raise
    except StorageError:
        info = find(url)
        if info is None or info.bytes >= stop:
            raise
        return _read_range(url, start, info.bytes - start) if info.bytes > start else b""  # servers refuse what is not there
    return b"".join(parts)


def _read_rest(url: str, start: int) -> bytes:
    """All from `start` on, in one request. Where that fails on the way, in parts, each of which may be asked for again."""
    fs, path = _filesystem(url)
    fault: Exception | None = None
    if not start:
        try:
            return cast(bytes, _call(fs, "cat_file", _WHOLE_S, path, start=0, end=None))
        except Exception as error:  # each backend raises its own kinds
            fault = error
    info = find(url)
    if info is None or (fault and info.bytes and not may_pass(fault)):
        raise storage_error(url, "read", fault or FileNotFoundError()) from fault
    return read_bytes(url, start, max(0, info.bytes - start))  # none of an empty one, of which servers refuse any range


def _read_part(fs: Any, path: str, url: str, start: int, length: int) -> bytes:
    data = cast(
        bytes, retried(url, "read", lambda: _call(fs, "cat_file", _seconds(length), path, start=start, end=start + length))
    )
    if len(data) > length:
        raise StorageError(f"{url}: its server sends only whole files, which this is too large for; fetch it to a disk first")
    return data


@contextmanager
def open_read(url: str) -> Iterator[BinaryIO]:
    """A seekable binary file. From a server it comes in blocks; one whose connection is cut is asked for again.

    Whatever fails in the storage, on opening or while reading, is a StorageError; so any other error that a decoder of
    the stream raises is about the content.
    """
    if is_local(url):
        raw = local_file(local_path(url), url)
    else:
        info = find(url)
        if info is None:
            raise MissingError(f"{url}: cannot read it: there is no such file; check the path")
        fs, path = _filesystem(url)
        raw = remote_file(partial(_read_part, fs, path, url), info.bytes, _BLOCK_BYTES)
    with raw, io.BufferedReader(raw, _BUFFER_BYTES) as file:
        yield file


def publish(url: str, data: bytes | bytearray | memoryview, first: bool = False) -> None:
    """Writes a whole file so that it is there complete or not at all, replacing what was there; if `first`, leaving that.

    On a disk only one of two that would be first is; elsewhere both may have looked before either wrote. Servers get it in
    one request, or in parts that are there when the last request completes them.
    """
    if is_local(url):
        with translated(url, "write"):
            disk.publish(local_path(url), data, first)
    elif not first or not find(url):
        fs, path = _filesystem(url)
        retried(url, "write", lambda: _call(fs, "pipe_file", _seconds(len(data)), path, bytes(data)))


def find(url: str) -> FileInfo | None:
    """The file at `url`, or None where there is none (a folder is none)."""
    if is_local(url):
        with translated(url, "look at"):
            return disk.find(local_path(url))
    fs, path = _filesystem(url)
    try:
        entry = retried(url, "look at", lambda: _fresh(fs, "info", _ANSWER_S, path))
    except MissingError:
        return None
    return _remote_info(fs, entry) if entry["type"] == "file" else None


def list_files(url: str, hidden: tuple[str, ...] = ()) -> list[FileInfo]:
    """Every file in a folder and below, sorted by URL; an empty list where there is no such folder.

    Files that are being published are left out, and so is what is no regular file. Files and folders whose names begin with
    one of `hidden` are not looked at.
    """
    if is_local(url):
        with translated(url, "list"):
            infos = list(disk.list_files(local_path(url), hidden))
    else:
        fs, path = _filesystem(url)
        infos = _remote_infos(fs, retried(url, "list", lambda: _fresh(fs, "find", _LISTING_S, path, detail=True)))
        infos = [info for info in infos if not _is_hidden(relative(info.url, url), hidden)]
    return sorted(infos, key=lambda info: info.url)


def _is_hidden(path: str, hidden: tuple[str, ...]) -> bool:
    return bool(hidden) and any(part.startswith(hidden) for part in path.split("/"))


def glob(pattern: str) -> list[FileInfo]:
    """Every file that matches the pattern (`*`, `?`, `[...]`, `**`), sorted by URL."""
    fs, path = _filesystem(pattern)
    if is_local(pattern):
        with translated(pattern, "list"):
            infos = [info for name in fs.glob(path) if (info := disk.find(Path(name)))]
    else:
        infos = _remote_infos(fs, retried(pattern, "list", lambda: _fresh(fs, "glob", _LISTING_S, path, detail=True)))
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
            retried(name, "remove", partial(_call, fs, "rm_file", _ANSWER_S, path))


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

    Several may share it, which keeps out those that do not. Elsewhere there is no such lock. Raises BusyError, saying
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
                raise BusyError(f"{url}: another {what} is at work there; wait for it or choose another") from None
        yield


def _remote_infos(fs: Any, entries: dict[str, dict[str, Any]]) -> list[FileInfo]:
    return [_remote_info(fs, _sized(fs, entry)) for entry in entries.values() if entry["type"] == "file"]


def _sized(fs: Any, entry: dict[str, Any]) -> dict[str, Any]:
    """The entry of a listing, asked for by itself where the listing does not say how large it is, as on web servers."""
    if entry.get("size") is not None:
        return entry
    name = entry["name"]
    found: dict[str, Any] = retried(name, "look at", lambda: _fresh(fs, "info", _ANSWER_S, name))
    return found


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
        get_filesystem_class(protocol)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        remedy = f"install the extra: pip install '.[{extra}]'" if extra else str(error)
        raise StorageError(f"{url}: the package for {protocol}:// is missing; {remedy}") from error
    except ValueError as error:
        known = "a local path, file://, s3://, gs://, az://, https://"
        raise StorageError(f"{url}: {protocol}:// is no known kind of storage; use {known} or another of fsspec's") from error
    try:
        fs, path = url_to_fs(url, **({} if is_local(url) else {"use_listings_cache": False}))
    except Exception as error:  # a backend may fail in any way while it is set up
        raise storage_error(url, "open", error) from error
    host = urlsplit(url).hostname or ""
    if not is_local(url) and protocol not in _EXTRAS and ("::" in url or host not in fs.unstrip_protocol(path).lower()):
        raise StorageError(
            f"{url}: the files that are listed there lose a part of the URL; mount it, or copy it to a disk first"
        )
    if protocol in ("s3", "s3a"):  # before it connects; its own attempts around those of botocore would multiply ours
        fs.connect_timeout, fs.read_timeout, fs.retries = _CONNECT_S, _SILENCE_S, 1
        fs.config_kwargs.setdefault("retries", {"mode": "standard", "total_max_attempts": 3})  # for a part of an upload
    for name in () if is_local(url) else ("asyncio", "gcsfs"):  # they log the traceback of what is raised here, too
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return fs, cast(str, path)


def _call(fs: Any, operation: str, limit_s: float, *arguments: Any, **options: Any) -> Any:
    """An operation of a backend, ended after `limit_s` where the backend lets it be; the others have limits of their own."""
    if fs.async_impl:
        return sync(fs.loop, getattr(fs, f"_{operation}"), *arguments, timeout=limit_s, **options)
    return getattr(fs, operation)(*arguments, **options)


def _fresh(fs: Any, operation: str, limit_s: float, *arguments: Any, **options: Any) -> Any:
    """The same, for what backends like to keep from the last time."""
    fs.invalidate_cache()
    return _call(fs, operation, limit_s, *arguments, **options)


def _seconds(num_bytes: int) -> float:
    """How long a transfer may take."""
    return _ANSWER_S + num_bytes / _SLOWEST_BYTES_PER_S

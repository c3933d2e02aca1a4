"""Whole files, ranges and streams. If a connection breaks, only the lost part is requested again."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, BinaryIO, cast

from shards.storage.blocks import local_file, remote_file
from shards.storage.faults import MissingError, StorageError, is_missing, may_pass, retried, storage_error, translated
from shards.storage.files import find
from shards.storage.on_fsspec import WHOLE_S, call, filesystem, transfer_limit_s
from shards.storage.urls import is_local, local_path

_BUFFER_BYTES = 1 << 20
_BLOCK_BYTES = 8 << 20
_MOST_SMALL_BYTES = 64 << 20
# A larger range is fetched in requests of this size, so that a cut connection costs one part.
_PART_BYTES = 64 << 20


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
    if length is not None:
        _check_length(url, start, len(data), length)
    return data


def read_small(url: str, most_bytes: int = _MOST_SMALL_BYTES) -> bytes:
    """The content of a file that is small by its nature, such as a record or a configuration.

    A stranger's file may claim any size at no cost, with a hole in it. Raises StorageError if it has more than `most_bytes`.
    """
    info = find(url)
    if info and info.bytes > most_bytes:
        raise StorageError(
            f"{url}: has {info.bytes} bytes, at most {most_bytes} are allowed; replace it, or ask whoever made it"
        )
    return read_bytes(url)


def read_into(url: str, start: int, out: memoryview) -> None:
    """Fills `out` with the bytes from `start`, from a disk without another copy. Raises StorageError as `read_bytes` does."""
    if is_local(url):
        with translated(url, "read"), open(local_path(url), "rb") as file:
            file.seek(start)
            length = file.readinto(out)
        _check_length(url, start, length, len(out))
    else:
        out[:] = read_bytes(url, start, len(out))


def _check_length(url: str, start: int, length: int, expected: int) -> None:
    if length != expected:
        raise StorageError(f"{url}: ends at byte {start + length}, expected {start + expected}; it is damaged, rebuild it")


def read_ranges(ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
    """What `read_bytes` returns for each (URL, start, length). Over a network all requests are made at once.

    The URLs are of one storage.
    """
    requested = [each for each in ranges if each[2]]
    parts: dict[tuple[str, int, int], Any] = {}
    if requested and not is_local(requested[0][0]):
        fs, _ = filesystem(requested[0][0])
        paths = [filesystem(url)[1] for url, _, _ in requested]
        starts, ends = [start for _, start, _ in requested], [start + length for _, start, length in requested]
        limit_s = transfer_limit_s(sum(length for _, _, length in requested))
        with suppress(Exception):  # each backend raises its own kinds; missing parts are read again, one by one
            answers = call(fs, "cat_ranges", limit_s, paths, starts, ends, on_error="return")
            parts = dict(zip(requested, answers, strict=True))
    return [_complete(parts.get(each), each) if each[2] else b"" for each in ranges]


def _complete(part: Any, requested: tuple[str, int, int]) -> bytes:
    return part if isinstance(part, bytes) and len(part) == requested[2] else read_bytes(*requested)


def _read_range(url: str, start: int, length: int) -> bytes:
    fs, path = filesystem(url)
    stop = start + length
    try:
        parts = [_read_part(fs, path, url, at, min(_PART_BYTES, stop - at)) for at in range(start, stop, _PART_BYTES)]
    except MissingError:
        raise
    except StorageError:  # servers refuse a range that is beyond the file's end
        info = find(url)
        if info is None or info.bytes >= stop:
            raise
        return _read_range(url, start, info.bytes - start) if info.bytes > start else b""
    return b"".join(parts)


def _read_rest(url: str, start: int) -> bytes:
    """Everything from `start` on, in one request. Where that fails midway, in parts, each of which may be tried again."""
    fs, path = filesystem(url)
    fault: Exception | None = None
    if not start:
        try:
            return cast(bytes, call(fs, "cat_file", WHOLE_S, path, start=0, end=None))
        except Exception as error:  # each backend raises its own kinds
            if is_missing(error):
                raise storage_error(url, "read", error) from error
            fault = error
    info = find(url)
    if info is None or (fault and info.bytes and not may_pass(fault)):
        raise storage_error(url, "read", fault or FileNotFoundError()) from fault
    return read_bytes(url, start, max(0, info.bytes - start))  # none of an empty one, of which servers refuse any range


def _read_part(fs: Any, path: str, url: str, start: int, length: int) -> bytes:
    limit_s = transfer_limit_s(length)
    part = retried(url, "read", lambda: call(fs, "cat_file", limit_s, path, start=start, end=start + length))
    if len(part) > length:
        raise StorageError(f"{url}: its server sends only whole files, which this is too large for; fetch it to a disk first")
    return cast(bytes, part)


@contextmanager
def open_read(url: str) -> Iterator[BinaryIO]:
    """A seekable binary file. From a server it comes in blocks; a block whose connection breaks is requested again.

    Whatever fails in the storage, on opening or while reading, is a StorageError. So any other error that a decoder of
    the stream raises is about the content.
    """
    if is_local(url):
        raw = local_file(local_path(url), url)
    else:
        info = find(url)
        if info is None:
            raise MissingError(f"{url}: cannot read it: there is no such file; check the path")
        fs, path = filesystem(url)
        raw = remote_file(partial(_read_part, fs, path, url), info.bytes, _BLOCK_BYTES)
    with raw, io.BufferedReader(raw, _BUFFER_BYTES) as file:
        yield file

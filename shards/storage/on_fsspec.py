"""Buckets and web servers, through the file systems of fsspec. No other module imports fsspec.

Every request to a server has a time limit, which depends on its size. fsspec is imported when it is first needed: commands that
use local files only start without it.
"""

import logging
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast
from urllib.parse import urlsplit

from shards.storage.disk import FileInfo
from shards.storage.faults import StorageError, retried, storage_error
from shards.storage.urls import is_local, local_path, scheme

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "adl": "azure", "abfss": "azure"}
_EXTRAS |= {"http": "http", "https": "http"}
ANSWER_S, LISTING_S, WHOLE_S = 60.0, 3600.0, 3600.0  # limits of a request
_SLOWEST_BYTES_PER_S = 250_000
_CONNECTIONS = 64  # to S3 at once; botocore's default is 10
_PAGE = 1000  # entries that S3 lists in a request
_CONNECT_S, _SILENCE_S = 10, 30
# What a backend calls the value that changes with the content, the best first.
_VERSIONS = (
    *("ETag", "etag", "md5Hash", "blob_id", "Content-MD5", "Digest"),
    *("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "created"),
)


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL that is not local, and its path there. Raises StorageError for an unknown scheme."""
    from fsspec.core import url_to_fs
    from fsspec.registry import get_filesystem_class

    protocol = scheme(url)
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
        fs, path = url_to_fs(url, use_listings_cache=False)
    except Exception as error:  # a backend may fail in any way while it is set up
        raise storage_error(url, "open", error) from error
    host = urlsplit(url).hostname or ""
    if protocol not in _EXTRAS and ("::" in url or host not in fs.unstrip_protocol(path).lower()):
        raise StorageError(
            f"{url}: the files that are listed there lose a part of the URL; mount it, or copy it to a disk first"
        )
    if protocol in ("s3", "s3a"):  # before it connects; its own attempts around those of botocore would multiply ours
        fs.connect_timeout, fs.read_timeout, fs.retries = _CONNECT_S, _SILENCE_S, 1
        fs.config_kwargs.setdefault("max_pool_connections", _CONNECTIONS)
        fs.config_kwargs.setdefault("retries", {"mode": "standard", "total_max_attempts": 3})  # for a part of an upload
    for name in ("asyncio", "gcsfs"):  # they also log the traceback of every error that they raise
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return fs, cast(str, path)


def local_glob(pattern: str) -> list[str]:
    """The paths on a disk that match a pattern."""
    import fsspec

    return cast("list[str]", fsspec.filesystem("file").glob(absolute(pattern)))


def absolute(url: str) -> str:
    """The URL in the one form that listings have: for a local one the absolute path, links as they are."""
    if not is_local(url):
        fs, path = filesystem(url)
        return cast(str, fs.unstrip_protocol(path)).rstrip("/")
    return os.path.abspath(local_path(url))  # noqa: PTH100  # resolve() would replace links by what they point to


def relative(url: str, folder: str) -> str:
    """The part of a URL below the folder, with forward slashes."""
    return absolute(url).removeprefix(absolute(folder)).lstrip("/")


def call(fs: Any, operation: str, limit_s: float, *arguments: Any, **options: Any) -> Any:
    """Runs an operation of a backend and ends it after `limit_s`. Backends without asyncio have limits of their own."""
    if fs.async_impl:
        from fsspec.asyn import sync

        return sync(fs.loop, getattr(fs, f"_{operation}"), *arguments, timeout=limit_s, **options)
    return getattr(fs, operation)(*arguments, **options)


def call_fresh(fs: Any, operation: str, limit_s: float, *arguments: Any, **options: Any) -> Any:
    """The same for listings, which backends like to answer from memory."""
    fs.invalidate_cache()
    return call(fs, operation, limit_s, *arguments, **options)


def transfer_limit_s(num_bytes: int) -> float:
    """How long a transfer may take."""
    return ANSWER_S + num_bytes / _SLOWEST_BYTES_PER_S


def listed(url: str) -> Iterator[FileInfo]:
    """The files in a folder and below. From S3 they come page by page: a backend of fsspec returns all of them at once."""
    from fsspec.asyn import sync

    fs, path = filesystem(url)
    if scheme(url) not in ("s3", "s3a"):
        yield from file_infos(fs, retried(url, "list", lambda: call_fresh(fs, "find", LISTING_S, path, detail=True)))
        return
    bucket, _, key = path.partition("/")
    entries = fs._iterdir(bucket, delimiter="", prefix=f"{key}/" if key else "")
    while page := retried(url, "list", lambda: sync(fs.loop, _take, entries, _PAGE, timeout=ANSWER_S)):
        yield from (file_info(fs, entry) for entry in page if not entry["name"].endswith("/"))


async def _take(entries: AsyncIterator[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Up to `count` of the entries that are left."""
    page: list[dict[str, Any]] = []
    async for entry in entries:
        page.append(entry)
        if len(page) == count:
            break
    return page


def file_infos(fs: Any, entries: dict[str, dict[str, Any]]) -> list[FileInfo]:
    """The files of a listing."""
    return [file_info(fs, _with_size(fs, entry)) for entry in entries.values() if entry["type"] == "file"]


def _with_size(fs: Any, entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with its size: listings of web servers have none, so each of their files needs a request."""
    if entry.get("size") is not None:
        return entry
    name = entry["name"]
    complete: dict[str, Any] = retried(name, "look at", lambda: call_fresh(fs, "info", ANSWER_S, name))
    return complete


def file_info(fs: Any, entry: dict[str, Any]) -> FileInfo:
    """A file as a backend describes it. Raises StorageError if the description has no size."""
    version = next((str(entry[name]) for name in _VERSIONS if entry.get(name)), "")
    url = cast(str, fs.unstrip_protocol(entry["name"]))
    if entry.get("size") is None:
        raise StorageError(f"{url}: its server does not say how large it is; fetch it to a disk first")
    # Azure has an etag in quotes, but lists it without them; a proxy that compresses makes it a weak one.
    return FileInfo(url, int(entry["size"]), version.removeprefix("W/").strip('"'))

"""Files anywhere: on a disk, in a bucket, on a web server. Read, listed, published whole.

    urls        what a URL is: a local path, `file://...`, or `s3://...` and the like
    files       find, list, publish, remove, lock    -> disk     (local)
    reading     whole files, ranges, streams         -> on_fsspec  (the rest: the only module that imports fsspec)
    blocks      the file objects that a stream reads from
    faults      whatever a disk or server raises -> wait and try again, or one StorageError with the remedy
    redaction   secrets in URLs, removed from all that is shown or stored

Callers write `from shards import storage` and use the names below.
"""

from shards.storage.disk import FileInfo
from shards.storage.faults import BusyError, MissingError, StorageError, translated
from shards.storage.files import (
    find,
    flush_names,
    glob,
    iter_files,
    list_files,
    locked,
    publish,
    publish_file,
    publish_in_background,
    remove,
    temporary_folder,
    tidy,
)
from shards.storage.on_fsspec import absolute, relative
from shards.storage.reading import open_read, read_bytes, read_into, read_ranges, read_small
from shards.storage.redaction import redacted
from shards.storage.urls import is_local, join, local_path

__all__ = [
    "BusyError",
    "FileInfo",
    "MissingError",
    "StorageError",
    "absolute",
    "find",
    "flush_names",
    "glob",
    "is_local",
    "iter_files",
    "join",
    "list_files",
    "local_path",
    "locked",
    "open_read",
    "publish",
    "publish_file",
    "publish_in_background",
    "read_bytes",
    "read_into",
    "read_ranges",
    "read_small",
    "redacted",
    "relative",
    "remove",
    "temporary_folder",
    "tidy",
    "translated",
]

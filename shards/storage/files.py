"""Files as wholes: found, listed, published, removed; and the lock of a folder."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from shards.storage import disk
from shards.storage.disk import FileInfo
from shards.storage.faults import BusyError, MissingError, retried, translated
from shards.storage.on_fsspec import (
    ANSWER_S,
    LISTING_S,
    absolute,
    call,
    call_fresh,
    file_info,
    file_infos,
    filesystem,
    listed,
    local_glob,
    relative,
    transfer_limit_s,
)
from shards.storage.urls import is_local, local_path

Bytes = bytes | bytearray | memoryview


def find(url: str) -> FileInfo | None:
    """The file at `url`, or None if there is no file, for example a folder."""
    if is_local(url):
        with translated(url, "look at"):
            return disk.find(local_path(url))
    fs, path = filesystem(url)
    try:
        entry = retried(url, "look at", lambda: call_fresh(fs, "info", ANSWER_S, path))
    except MissingError:
        return None
    return file_info(fs, entry) if entry["type"] == "file" else None


def list_files(url: str, hidden: tuple[str, ...] = ()) -> list[FileInfo]:
    """Every file in a folder and below, sorted by URL; an empty list if there is no such folder.

    Files that are being published are left out, and so is what is no regular file. Files and folders whose names begin with
    one of `hidden` are not looked at.
    """
    return sorted(iter_files(url, hidden), key=lambda info: info.url)


def iter_files(url: str, hidden: tuple[str, ...] = ()) -> Iterator[FileInfo]:
    """The same, in any order and one by one, so that millions need no memory."""
    if is_local(url):
        with translated(url, "list"):
            yield from disk.list_files(local_path(url), hidden)
        return
    folder = absolute(url) + "/"
    for info in listed(url):
        path = info.url.removeprefix(folder) if info.url.startswith(folder) else relative(info.url, url)
        if not _is_hidden(path, hidden):
            yield info


def _is_hidden(path: str, hidden: tuple[str, ...]) -> bool:
    return bool(hidden) and any(part.startswith(hidden) for part in path.split("/"))


def glob(pattern: str, hidden: tuple[str, ...] = ()) -> list[FileInfo]:
    """Every file that matches the pattern (`*`, `?`, `[...]`, `**`), sorted by URL.

    Files whose names begin with one of `hidden` are not looked at. Any other dead link on a disk is an error.
    """
    if is_local(pattern):
        with translated(pattern, "list"):
            paths = [path for path in map(Path, local_glob(pattern)) if not path.name.startswith(hidden)]
            infos = [info for path in paths if (info := disk.find_listed(path))]
    else:
        fs, path = filesystem(pattern)
        infos = file_infos(fs, retried(pattern, "list", lambda: call_fresh(fs, "glob", LISTING_S, path, detail=True)))
        infos = [info for info in infos if not info.url.rpartition("/")[2].startswith(hidden)]
    return sorted(infos, key=lambda info: info.url)


def publish(url: str, data: Bytes, first: bool = False) -> None:
    """Writes a whole file: it is there complete or not at all. It replaces an older file, but not if `first`.

    With `first`, only one of two writers succeeds on a disk; elsewhere both may have looked before either wrote. A server
    gets the file in one request, or in parts that become a file when the last request completes them.
    """
    if is_local(url):
        with translated(url, "write"):
            disk.publish(local_path(url), data, first)
    elif not first or not find(url):
        fs, path = filesystem(url)
        limit_s = transfer_limit_s(len(data))
        retried(url, "write", lambda: call(fs, "pipe_file", limit_s, path, bytes(data)))


@contextmanager
def publish_in_background() -> Iterator[Callable[[str, Bytes], None]]:
    """A `publish` that waits for the file before, not for this one. At the end of the context all are written.

    What it raises may be about the file before.
    """
    writing: list[Future[None]] = []

    def end() -> None:
        while writing:
            writing.pop().result()

    def start(url: str, data: Bytes) -> None:
        end()
        writing.append(thread.submit(publish, url, data))

    with ThreadPoolExecutor(1) as thread:
        yield start
        end()


def publish_file(url: str, path: Path) -> None:
    """Publishes a copy of a file on this disk, however large it is."""
    if is_local(url):
        with translated(url, "write"):
            disk.publish_copy(local_path(url), path)
    else:
        fs, target = filesystem(url)
        limit_s = transfer_limit_s(path.stat().st_size)
        retried(url, "write", lambda: call(fs, "put_file", limit_s, str(path), target))


def flush_names(*urls: str) -> None:
    """Flushes the names of the files in local folders to the disk, so that they survive a power cut.

    Call it before you publish a file that promises the others, such as a manifest.
    """
    for url in urls:
        if is_local(url):
            disk.flush_names(local_path(url))


def remove(url: str) -> None:
    """Removes a file, or a folder with everything in it, if it exists. Never takes a name for a pattern."""
    if is_local(url):
        with translated(url, "remove"):
            disk.remove(local_path(url))
        return
    for name in [info.url for info in list_files(url)] or [url]:
        fs, path = filesystem(name)
        with suppress(MissingError):
            retried(name, "remove", partial(call, fs, "rm_file", ANSWER_S, path))


def tidy(url: str, files: re.Pattern[str], folders: re.Pattern[str] | None = None) -> None:
    """Removes the half-written files of dead processes below a local folder and, with `folders`, empty folders.

    `files` and `folders` match paths below the folder. What they do not match belongs to others and stays.
    """
    if is_local(url):
        with translated(url, "clean"):
            disk.remove_abandoned(local_path(url), files)
            if folders:
                disk.remove_empty_folders(local_path(url), folders)


@contextmanager
def temporary_folder() -> Iterator[str]:
    """A folder for temporary files on a local disk, removed at the end. Raises StorageError if there is no such disk."""
    with translated("TMPDIR", "use"):
        folder = TemporaryDirectory()
    with folder as path:
        yield path


@contextmanager
def locked(url: str, name: str, holder: str, shared: bool = False) -> Iterator[None]:
    """Holds a lock on the file `name` in a local folder, so that no other process of this kind works there.

    The lock ends with the process. Holders with `shared` let each other in. Elsewhere than on a disk there is no such
    lock. Raises BusyError, which names the `holder` (a build, a run).
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
            if not disk.lock(lock, shared):
                raise BusyError(f"{url}: another {holder} is at work there; wait for it or choose another folder")
        yield

"""Folders and files of a local disk: published whole, listed, and cleaned of the leftovers of dead processes.

A file is written under a temporary name beside its target, `.NAME.tmp-BOOT-NUMBER`, and is locked meanwhile. BOOT names
the running kernel, so it is the same in all containers of a machine. A lock ends with its process, whatever kills it.

Everything here raises OSError; `files` and `reading` turn it into a StorageError.
"""

import errno
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import IO, BinaryIO

if sys.platform != "linux":
    sys.exit("bert-shards needs Linux (flock, posix_fallocate, /proc); use a container, or WSL on Windows")
import fcntl  # after the check: Windows has no such module

_TEMPORARY = ".tmp-"
_TEMPORARY_NAME = re.compile(rf"\.(?P<target>.+){re.escape(_TEMPORARY)}(?P<boot>[0-9a-f]{{8}})-[0-9]+", re.DOTALL)
# A temporary file of another machine that is older than this is abandoned.
_ABANDONED_S = 24 * 3600.0


@dataclass(frozen=True)
class FileInfo:
    """One listed file. `version` changes when the content does: an etag, or the time of the last change."""

    url: str
    bytes: int
    version: str


def publish(path: Path, data: bytes | bytearray | memoryview, first: bool = False) -> None:
    """Writes a temporary file, flushes it to the disk, and renames it to the target; if `first`, only if there is none.

    So the target is there complete or not at all. After a power cut it may be missing: see `flush_names`.
    """
    _publish(path, lambda file: file.write(data), first)


def publish_copy(path: Path, source: Path) -> None:
    """Publishes a copy of another file in the same way."""
    with open(source, "rb") as content:
        _publish(path, lambda file: shutil.copyfileobj(content, file))


def _publish(path: Path, write: Callable[[BinaryIO], object], first: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_file(path) as file:
        temporary = Path(file.name)
        try:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            if first:
                _take_if_free(path, temporary)
            else:
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _temporary_file(path: Path) -> BinaryIO:
    """A new file beside `path`, locked until it is closed."""
    for number in count():
        try:
            file = open(path.with_name(f".{path.name}{_TEMPORARY}{_boot()}-{number}"), "xb")  # noqa: SIM115
        except FileExistsError:  # another process or thread writes the same target, or died while it did
            continue
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # between the two calls, `remove_abandoned` of another process removed it
    raise AssertionError("unreachable")


@cache
def _boot() -> str:
    """A name of the running kernel, the same in all containers of a machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return sha256(socket.gethostname().encode()).hexdigest()[:8]


def flush_names(folder: Path) -> None:
    """Flushes the names in a folder to the disk: a rename survives a power cut only after that.

    It takes as long as the flush of a small file, so it is not done for each one.
    """
    with suppress(OSError):  # some file systems cannot
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _take_if_free(path: Path, temporary: Path) -> None:
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        pass
    except OSError:  # there are file systems without links
        if not path.exists():
            temporary.replace(path)
    temporary.unlink(missing_ok=True)


def lock(file: IO[str], shared: bool) -> bool:
    """Locks an open file until it is closed or the process ends. False if another process has locked it."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove_abandoned(folder: Path, files: re.Pattern[str]) -> None:
    """Removes the temporary files of dead processes below the folder.

    Only those whose target, as a path below the folder, matches `files`: others may belong to another program.
    """
    for parent, _, names in os.walk(folder):
        for name in names:
            match = _TEMPORARY_NAME.fullmatch(name)
            if match and files.fullmatch((Path(parent) / match["target"]).relative_to(folder).as_posix()):
                with suppress(FileNotFoundError):
                    _remove_if_abandoned(Path(parent) / name, here=match["boot"] == _boot())


def _remove_if_abandoned(path: Path, here: bool) -> None:
    """Removes the file if no process has locked it. `here`: it was written on this machine, since its last start."""
    is_old = time.time() - path.stat().st_mtime > _ABANDONED_S
    if not (here or is_old):
        return
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:  # no locks on this file system
            if not is_old:
                return
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):  # else it was finished, and its name taken again
            path.unlink()


def find(path: Path) -> FileInfo | None:
    """The file, or None if there is no file, for example a folder."""
    return _info(path) if path.is_file() else None


def find_listed(path: Path) -> FileInfo | None:
    """The same for a name of a listing, where a dead link is an error."""
    _check_link(path)
    return find(path)


def _check_link(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise OSError(errno.ENOENT, "it is a link to nothing", str(path))


def list_files(folder: Path, hidden: tuple[str, ...] = ()) -> Iterator[FileInfo]:
    """Every regular file below, except those that are being published, and names that begin with one of `hidden`.

    A dead link is an error, not a file less; one whose name is hidden is not looked at.
    """
    _check_link(folder)
    waiting = [folder] if folder.is_dir() else []
    while waiting:
        parent = waiting.pop()
        with os.scandir(parent) as entries:
            for entry in entries:
                if entry.name.startswith(hidden) or (entry.name.startswith(".") and _TEMPORARY in entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(parent / entry.name)
                    continue
                if entry.is_symlink():
                    _check_link(parent / entry.name)
                if entry.is_file():
                    status = entry.stat()
                    yield FileInfo(_path(parent, entry.name), status.st_size, str(status.st_mtime_ns))


def _path(parent: Path, name: str) -> str:
    """The path of a file in a folder, as pathlib writes it. Faster than that, for listings of millions."""
    folder = str(parent)
    return name if folder == "." else f"{folder.rstrip('/')}/{name}"


def remove(path: Path) -> None:
    """Removes a file, or a folder with everything in it, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_empty_folders(folder: Path, folders: re.Pattern[str]) -> None:
    """Removes the empty folders whose path below the folder matches `folders`; "." is the folder itself."""
    for parent, _, _ in os.walk(folder, topdown=False):
        if folders.fullmatch(Path(parent).relative_to(folder).as_posix()):
            with suppress(OSError):  # not empty
                Path(parent).rmdir()


def _info(path: Path) -> FileInfo:
    status = path.stat()
    return FileInfo(str(path), status.st_size, str(status.st_mtime_ns))

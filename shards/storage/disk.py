"""Files and folders of a local disk: published whole, listed, and cleaned of the leftovers of dead processes.

Everything here raises OSError; `files` and `reading` turn it into a StorageError.
"""

import errno
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TEMPORARY = ".tmp-"
# A temporary file of another machine that is older than this is abandoned.
_ABANDONED_S = 24 * 3600.0


@dataclass(frozen=True)
class FileInfo:
    """One listed file. `version` changes when the content does: an etag, or the time of the last change."""

    url: str
    bytes: int
    version: str


def publish(path: Path, data: bytes | bytearray | memoryview, first: bool = False) -> None:
    """Writes a temporary file, flushes it to the disk, and renames it to the target; if `first`, only if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}{_TEMPORARY}{socket.gethostname()}-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if not first:
            temporary.replace(path)
        else:
            _take_if_free(path, temporary)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _take_if_free(path: Path, temporary: Path) -> None:
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        pass
    except OSError:  # there are file systems without links
        if not path.exists():
            temporary.replace(path)
    temporary.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Removes the temporary files of dead processes of this machine below a folder, and old ones of other machines."""
    mine = f"{_TEMPORARY}{socket.gethostname()}-"
    for path in folder.glob(f"**/.*{_TEMPORARY}*"):
        pid = path.name.rpartition("-")[2]
        with suppress(FileNotFoundError):
            old = time.time() - path.stat().st_mtime > _ABANDONED_S
            if pid.isdigit() and (not _is_alive(int(pid)) if mine in path.name else old):
                path.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the process of another user
        pass
    return True


def find(path: Path) -> FileInfo | None:
    """The file, or None where there is none (a folder is none)."""
    return _info(path) if path.is_file() else None


def list_files(folder: Path, hidden: tuple[str, ...] = ()) -> Iterator[FileInfo]:
    """Every regular file below, except those that are being published, and names that begin with one of `hidden`.

    A dead link is an error, not a file less; one whose name is hidden is not looked at.
    """
    for parent, folders, names in os.walk(folder, onerror=_raise) if folder.is_dir() else ():
        folders[:] = [name for name in folders if not name.startswith(hidden)]
        for path in (Path(parent) / name for name in names if not (name.startswith(".") and _TEMPORARY in name)):
            if path.name.startswith(hidden):
                continue
            if path.is_file():
                yield _info(path)
            elif not path.exists():
                raise OSError(errno.ENOENT, f"{path} is a link to nothing")


def remove(path: Path) -> None:
    """Removes a file, or a folder with everything in it; nothing where there is none."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_empty_folders(folder: Path) -> None:
    """Removes empty folders: the folder itself and those below it."""
    for parent, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # not empty
            Path(parent).rmdir()


def _info(path: Path) -> FileInfo:
    status = path.stat()
    return FileInfo(str(path), status.st_size, str(status.st_mtime_ns))


def _raise(error: OSError) -> None:
    raise error

"""Commands in a terminal: arguments, signals, exit codes and messages on stderr."""

import argparse
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from pathlib import PurePath
from typing import NoReturn

from shards.errors import UserError
from shards.storage.redaction import redacted

EXIT_WRONG, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and exit code 2, and that knows no shortened flags."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **({"allow_abbrev": False} | options))  # type: ignore[arg-type]  # argparse's own

    def error(self, message: str) -> NoReturn:
        """One line instead of the usage."""
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: {message}; see {self.prog} --help\n")


def program(script: str, module: str) -> str:
    """How the command was started, for its help: as an installed script, or as a module."""
    return script if PurePath(sys.argv[0]).name == script else f"python -m {module}"


def guarded(name: str, action: Callable[[], int], quiet: bool = False) -> int:
    """Runs a command and returns its exit code. A UserError is one line after the command's name and exit code 2 or 75.

    Other errors are bugs and show their traceback. `quiet`: another process of the run prints the line.
    """
    _escape_what_cannot_be_encoded()
    try:
        return _flushed(action)
    except UserError as error:
        if not quiet:
            print(f"{name}: error: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        with silenced(quiet):
            print(f"{name}: interrupted; finished work is kept, run the same command again to resume", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of stdout, such as `head`, has read enough
        _discard_stdout()
        return EXIT_WRONG
    except OSError as error:  # storage raises StorageError, so this is a bug, or stdout on a full disk
        if error.errno not in _FULL_DISK:
            raise
        _discard_stdout()
        print(f"{name}: error: {error.strerror}; free some space and run the same command again", file=sys.stderr)
        return EXIT_BAD_INPUT


def _flushed(action: Callable[[], int]) -> int:
    """Runs a command and flushes stdout, also after `--help`, so that its errors are known before the interpreter ends."""
    try:
        return action()
    finally:
        if sys.stdout:  # None if the shell has closed it
            sys.stdout.flush()


def _escape_what_cannot_be_encoded() -> None:
    """Lets stdout show any text, such as the name of a file, in any encoding that a user has set."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        with suppress(OSError):  # a stdout that is opened for appending, whose position is unknown
            sys.stdout.reconfigure(errors="backslashreplace")


def _discard_stdout() -> None:
    """Stdout cannot be written, so the interpreter's last flush of it must go elsewhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def silenced(quiet: bool) -> Iterator[None]:
    """Drops messages on stderr if `quiet`, because another process of the run prints them."""
    with redirect_stderr(io.StringIO()) if quiet else nullcontext():
        yield


def interrupt_once() -> None:
    """Makes SIGTERM and SIGINT end the command once. Later signals, while it ends, have no effect."""

    def interrupt(*_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt)


def printable(text: str) -> str:
    """The text on one line, without control sequences for the terminal and without secrets in URLs."""
    return "".join(c if c.isprintable() else " " if c.isspace() else repr(c)[1:-1] for c in redacted(text))


def say(line: str) -> None:
    """Prints a line on stderr. A closed pipe does not end the work."""
    with suppress(OSError):
        print(redacted(line), file=sys.stderr, flush=True)

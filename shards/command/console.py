"""What both commands say to the person who waits, and how they take what that person asks for and does."""

import argparse
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
    """Runs a command; errors that people can mend are one line and exit code 2 (or 75), with the command's name before it.

    `quiet`: the line is left to another process of the run.
    """
    try:
        return action()
    except UserError as error:
        if not quiet:
            print(f"{name}: error: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        with silenced(quiet):
            print(f"{name}: interrupted; what is done is kept, run the same command again to go on", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the interpreter's last flush is quiet
        if isinstance(error, BrokenPipeError):
            return EXIT_WRONG
        place = f"{error.filename}: " if error.filename else ""
        print(f"{name}: error: {printable(f'{place}{error.strerror or error}')}; mend that and run it again", file=sys.stderr)
        return EXIT_BAD_INPUT


@contextmanager
def silenced(quiet: bool) -> Iterator[None]:
    """What is said inside is said by another process of the run, where `quiet`."""
    with redirect_stderr(io.StringIO()) if quiet else nullcontext():
        yield


def interrupt_once() -> None:
    """From now on SIGTERM and SIGINT end the run once; what comes while it ends is not heard."""

    def interrupt(*_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt)


def printable(text: str) -> str:
    """The text on one line, without what a terminal would obey and without secrets in URLs."""
    return "".join(c if c.isprintable() else " " if c.isspace() else repr(c)[1:-1] for c in redacted(text))


def say(line: str) -> None:
    """A line for the person who waits, if there still is one: a closed pipe does not end the work."""
    with suppress(OSError):
        print(redacted(line), file=sys.stderr, flush=True)


def short(number: float) -> str:
    """1234567 -> 1.2 M."""
    for unit in ("", "k", "M", "G", "T"):
        if number < 1000 or unit == "T":
            return f"{number:.0f}" if not unit else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError("unreachable")


def size(num_bytes: float) -> str:
    """Bytes for people: 12.2 MB."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if num_bytes < 1000 or unit == "TB":
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    raise AssertionError("unreachable")


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"

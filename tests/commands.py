"""The commands as tests run them: in this process, where the process is not the point, or in one of their own."""

import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
# No command of a test runs this long; it ends one that hangs, and depends on no machine's speed.
HANG_S = 1800


def run_prep(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m prep ...` in this process; its tasks too, unless `--workers` asks for several."""
    words = list(map(str, arguments))
    workers = [value for flag, value in pairwise(words) if flag == "--workers"]
    if workers and workers[-1] != "1":
        return call("prep.__main__", words, cwd)
    with patch("prep.engines.open.LocalExecutor", InlineExecutor):
        return call("prep.__main__", words, cwd)


def run_prep_process(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m prep ...` in a process of its own, with the environment of this one."""
    command = [sys.executable, "-m", "prep", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd or ROOT, env=environment, capture_output=True, text=True, timeout=HANG_S)


class InlineExecutor(Executor):
    """Stands in for the pool of worker processes, and runs each task at once, in the caller's process."""

    def __init__(self, workers: int, progress_folder: str) -> None:
        pass

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future

    def prepare(self, function: Callable[..., None], *args: Any) -> None:
        """Nothing: the first task does it."""


def call(module: str, arguments: Sequence[object], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What `module.main` does with the arguments, as if it were a process: exit code, output, and nothing left changed."""
    words = list(map(str, arguments))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with _streams(out, err), _restored(cwd or ROOT):
            code = _exit_code(lambda: importlib.import_module(module).main(words))
        texts = [_text(file) for file in (out, err)]
    return subprocess.CompletedProcess([module, *words], code, *texts)


def _exit_code(main: Callable[[], int]) -> int:
    try:
        return main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:  # as the interpreter would end
        traceback.print_exc()
        return 1


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf8", errors="replace")


@contextmanager
def _streams(out: IO[bytes], err: IO[bytes]) -> Iterator[None]:
    """Standard output and error into the files: those of Python, of libraries, and of processes that are started."""
    before, saved = (sys.stdout, sys.stderr), (os.dup(1), os.dup(2))
    for stream, file, number in zip(before, (out, err), (1, 2), strict=True):
        stream.flush()
        os.dup2(file.fileno(), number)
    sys.stdout = open(1, "w", encoding="utf8", closefd=False)  # noqa: SIM115  # it outlives this line
    sys.stderr = open(2, "w", encoding="utf8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
        for copy, number in zip(saved, (1, 2), strict=True):
            os.dup2(copy, number)
            os.close(copy)


@contextmanager
def _restored(cwd: Path) -> Iterator[None]:
    """Undoes what a command changes for its process: folder, environment, signals, handlers of the log."""
    folder, environment = Path.cwd(), dict(os.environ)
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    root = logging.getLogger()
    handlers, level, root.handlers = root.handlers, root.level, []
    os.chdir(cwd)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in signals.items():
            signal.signal(number, handler)
        root.handlers = handlers
        root.setLevel(level)


def manifest_of(out: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return value

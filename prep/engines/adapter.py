"""What other systems' executors have in common, seen from `run_tasks`.

Whatever they raise becomes one of three things: the worker died (WorkerDiedError), the system itself is lost (UserError), or
the task failed (its own error).
"""

import os
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from prep.corpus.warc import EXTRACTOR
from prep.engines.local import use_one_thread
from prep.pairing.pair import RECIPE_VERSION
from prep.plan import PLAN_VERSION
from prep.tokens.sentences import SPLITTER
from prep.tokens.store import STORE_VERSION
from prep.tokens.tokenizer import TOKENIZERS
from shards.command.console import say
from shards.errors import UserError

CONNECT_S = 20
"""An address at which nobody answers for so long is given up."""
AHEAD = 2
"""Tasks in flight for each worker, so that none waits for its next."""
_COUNT_EVERY_S = 5.0
_VERSIONS = (SPLITTER, TOKENIZERS, EXTRACTOR, PLAN_VERSION, STORE_VERSION, RECIPE_VERSION)


@dataclass(frozen=True)
class Engine:
    """An executor, and how many tasks it should have in flight just now. `elsewhere`: its workers may see another disk."""

    executor: Executor
    window: Callable[[], int]
    elsewhere: bool


class Started(Protocol):
    """What any system's future has."""

    def add_done_callback(self, fn: Callable[[Any], object], /) -> None:
        """Calls `fn` with the future, in whatever thread, once there is a result or an error."""

    def result(self) -> Any:
        """The result, or raises the error."""


class AdaptedExecutor(Executor):
    """Another system's futures; `translate` turns what they raise into the errors that `run_tasks` knows."""

    def __init__(
        self,
        engine: str,
        start: Callable[..., Started],
        translate: Callable[[BaseException], BaseException] = lambda error: error,
    ) -> None:
        self._engine, self._start, self._translate = engine, start, translate

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Runs it on some worker."""
        future: Future[Any] = Future()
        try:
            started = self._start(run_at_worker, _VERSIONS, fn, *args, **kwargs)
            started.add_done_callback(partial(self._pass_on, future))
        except Exception as error:  # every system has its own
            known = self._translate(error)
            if isinstance(known, UserError):
                raise known from error
            told = f"{type(error).__name__}: {one_line(error)}"
            raise UserError(
                f"--engine {self._engine}: takes no task ({told}); run the same command again, or mend it"
            ) from error
        return future

    def _pass_on(self, future: Future[Any], started: Started) -> None:
        try:
            future.set_result(started.result())
        except BaseException as error:
            future.set_exception(self._translate(error))


def run_at_worker(versions: tuple[object, ...], function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """At a worker: runs a task, if it would give the same data here as where it was sent."""
    if versions != _VERSIONS:
        here, there = (", ".join(map(str, each)) for each in (_VERSIONS, versions))
        raise UserError(
            f"a worker on {socket.gethostname()} has other versions ({here}) than this process ({there}); install the same"
        )
    use_one_thread()
    return function(*args, **kwargs)


def window_of(engine: str, workers: int, count: Callable[[], int]) -> Callable[[], int]:
    """`workers` tasks at once where that is asked for; else AHEAD for each worker that the cluster has now.

    Clusters grow and shrink, so it is asked for every few seconds; while nobody answers, the count stays what it was. That
    there is no worker is said.
    """
    known, asked = -1, 0.0

    def current() -> int:
        nonlocal known, asked
        if not asked or time.monotonic() - asked > _COUNT_EVERY_S:
            before = known
            with suppress(Exception):  # every system has its own; a task in flight says what is wrong
                known = count()
            asked = time.monotonic()
            if known == 0 != before:
                say(f"--engine {engine}: has no workers now; waiting for some")
        return workers or AHEAD * max(1, known)

    return current


def lost(engine: str, reason: str) -> UserError:
    """The system has gone, with all that is in flight on it."""
    return UserError(f"--engine {engine}: {reason}; what is done is kept, run the same command again to go on")


def nobody(engine: str, error: BaseException) -> UserError:
    """There is no system at that address."""
    return UserError(f"--engine {engine}: nobody answers there ({one_line(error)}); check the address, and that it runs")


def one_line(error: BaseException) -> str:
    """What an error of another system says, in short."""
    return re.split(r"\.\s|\n", str(error).strip())[0][:300] or type(error).__name__


def cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):  # what Slurm or taskset leaves of them, on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

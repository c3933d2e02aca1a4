"""What the executors of other systems have in common, seen from `run_tasks`.

Whatever they raise becomes one of three: the worker died (WorkerDiedError), the system itself is lost (UserError), or the
task failed (its own error).
"""

import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from prep.corpus.read import READER_VERSION
from prep.corpus.warc import extractor_version
from prep.engines.local import tune_process
from prep.pairing.task import RECIPE_VERSION
from prep.tokens.sentences import SPLITTER
from prep.tokens.store import STORE_VERSION
from prep.tokens.tokenizer import TOKENIZERS
from shards.command.console import say
from shards.errors import UserError

CONNECT_S = 20  # after which an address without an answer is given up
AHEAD = 2  # tasks in flight per worker, so that no worker waits for its next one
_COUNT_EVERY_S = 5.0
_VERSIONS = (SPLITTER, TOKENIZERS, READER_VERSION, extractor_version(), STORE_VERSION, RECIPE_VERSION)


class Started(Protocol):
    """What the future of any system has."""

    def add_done_callback(self, fn: Callable[[Any], object], /) -> None:
        """Calls `fn` with the future, in any thread, when there is a result or an error."""

    def result(self) -> Any:
        """Returns the result or raises the error."""


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
            translated = self._translate(error)
            if isinstance(translated, UserError):
                raise translated from error
            cause = f"{type(error).__name__}: {one_line(error)}"
            raise UserError(
                f"--engine {self._engine}: accepts no task ({cause}); mend it, or run the same command again"
            ) from error
        return future

    def _pass_on(self, future: Future[Any], started: Started) -> None:
        try:
            future.set_result(started.result())
        except BaseException as error:
            future.set_exception(self._translate(error))


def run_at_worker(versions: tuple[object, ...], function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Runs a task on a worker, if it gives the same data here as on the machine that sent it."""
    if versions != _VERSIONS:
        here, sender = (", ".join(map(str, each)) for each in (_VERSIONS, versions))
        raise UserError(
            f"a worker on {socket.gethostname()} has other versions ({here}) than this process ({sender}); install the same"
        )
    tune_process()
    return function(*args, **kwargs)


def window_of(engine: str, workers: int, count: Callable[[], int]) -> Callable[[], int]:
    """The window of a cluster: `workers` tasks if that is set, else AHEAD for each worker that the cluster has now.

    Clusters grow and shrink, so the workers are counted every few seconds. If the cluster does not answer, the last count
    is used. Prints a message when there are no workers.
    """
    num_workers, counted_at = -1, 0.0

    def window() -> int:
        nonlocal num_workers, counted_at
        if not counted_at or time.monotonic() - counted_at > _COUNT_EVERY_S:
            before = num_workers
            with suppress(Exception):  # every system has its own; a task in flight shows what is wrong
                num_workers = count()
            counted_at = time.monotonic()
            if num_workers == 0 and before != 0:
                say(f"--engine {engine}: has no workers now; waiting for some")
        return workers or AHEAD * max(1, num_workers)

    return window


def lost_error(engine: str, reason: str) -> UserError:
    """The error for a system that ended, with all its tasks."""
    return UserError(f"--engine {engine}: {reason}; finished tasks are kept, run the same command again to resume")


def no_answer_error(engine: str, error: BaseException) -> UserError:
    """The error for an address where no system answers."""
    return UserError(f"--engine {engine}: no answer from that address ({one_line(error)}); check it, and that the cluster runs")


def one_line(error: BaseException) -> str:
    """The first sentence of another system's error."""
    return re.split(r"\.\s|\n", str(error).strip())[0][:300] or type(error).__name__

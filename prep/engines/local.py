"""Tasks on a `concurrent.futures.Executor`, with retries; and the local one, a pool of spawned processes.

Tasks are idempotent, so a task whose worker died is simply run again. One that keeps killing its worker is named.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from typing import Any, Protocol, TypeVar

from prep import progress
from shards.errors import UserError

MAX_DEATHS = 3
"""A task during which so many workers died is given up."""
_TICK_S = 0.2
Result = TypeVar("Result")


class WorkerDiedError(BrokenExecutor):
    """An engine's word that so many workers died, one after the other, during one task."""

    def __init__(self, deaths: int) -> None:
        super().__init__(deaths)
        self.deaths = deaths


class Task(Protocol):
    """One unit of work: what the engine knows of it is its name, for messages."""

    @property
    def name(self) -> str:
        """Unique in a run: deaths are counted by it."""


AnyTask = TypeVar("AnyTask", bound=Task)


def run_tasks(
    executor: Executor,
    function: Callable[[AnyTask], Result],
    tasks: Iterable[AnyTask],
    window: Callable[[], int],
    tick: Callable[[], None] = lambda: None,
) -> Iterator[tuple[AnyTask, Result]]:
    """Yields each task with its result as it is done, at most `window()` of them in flight: it may change meanwhile.

    A task that raises ends the run with its error; one whose worker died is tried again, up to MAX_DEATHS times, then
    UserError names it. `tick` is called several times a second.
    """
    waiting = iter(tasks)
    again: list[AnyTask] = []
    deaths: dict[str, int] = {}
    flying: dict[Future[Result], AnyTask] = {}
    while True:
        while len(flying) < window() and (task := again.pop() if again else next(waiting, None)) is not None:
            flying[executor.submit(function, task)] = task
        if not flying:
            return
        done, _ = wait(flying, timeout=_TICK_S, return_when=FIRST_COMPLETED)
        tick()
        for future in done:
            task = flying.pop(future)
            try:
                result = future.result()
            except BrokenExecutor as error:
                more = error.deaths if isinstance(error, WorkerDiedError) else 1
                deaths[task.name] = deaths.get(task.name, 0) + more
                if deaths[task.name] >= MAX_DEATHS:
                    raise UserError(
                        f"{task.name}: its worker process died {deaths[task.name]} times, perhaps for want of memory; use "
                        "fewer --workers, or take that input out; what is done is kept"
                    ) from error
                again.append(task)
                continue
            yield task, result


class LocalExecutor(Executor):
    """Spawned processes, each a pool of one, so that a killed worker fails its own task only and is replaced."""

    def __init__(self, workers: int, progress_folder: str) -> None:
        self._progress_folder = progress_folder
        self._pools: list[ProcessPoolExecutor | None] = [None] * workers  # each made when it is first needed
        self._last: list[Future[Any] | None] = [None] * workers  # what each was given last

    def _pool(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, context, initializer=_start_worker, initargs=(self._progress_folder,))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Runs it on an idle process; behind others on the last one where there is none."""
        idle = (slot for slot, last in enumerate(self._last) if last is None or last.done())
        slot = next(idle, len(self._pools) - 1)
        pool = self._pools[slot] or self._pool()
        try:
            future = pool.submit(fn, *args, **kwargs)
        except BrokenProcessPool:
            pool.shutdown(wait=False)
            pool = self._pool()
            future = pool.submit(fn, *args, **kwargs)
        self._pools[slot], self._last[slot] = pool, future
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the processes; with `cancel_futures` at once, whatever they are doing."""
        for pool in filter(None, self._pools):
            pool.shutdown(wait=wait and not cancel_futures, cancel_futures=cancel_futures)
        if cancel_futures:
            for process in multiprocessing.active_children():
                process.kill()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.shutdown(cancel_futures=kind is not None)


def _start_worker(progress_folder: str) -> None:
    """One thread a worker, no interrupts of its own, and an end when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    progress.report_into(progress_folder)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    use_one_thread()


@cache
def use_one_thread() -> None:
    """Tasks in this process keep to one core each from now on, whatever libraries would take."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import pyarrow

    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

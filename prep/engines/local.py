"""Tasks on this machine: processes that are forked from one which has loaded everything, or spawned."""

import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import cache, partial
from typing import Any

from prep import progress
from prep.engines import forks

# New objects after which Python looks for garbage: documents are many and short-lived, and are freed without that.
_GARBAGE_EVERY = 50_000


class LocalExecutor(Executor):
    """Processes, each a pool of one, so that a killed worker fails its own task only and is replaced."""

    def __init__(self, workers: int, progress_folder: str) -> None:
        self._progress_folder = progress_folder
        self._pools: list[ProcessPoolExecutor | None] = [None] * workers  # each is made when it is first needed
        self._flying: list[list[Future[Any]]] = [[] for _ in range(workers)]  # the tasks of each pool that may not be done
        self._preparing: threading.Thread | None = None

    def _new_pool(self) -> ProcessPoolExecutor:
        arguments = (self._progress_folder, dict(os.environ))
        return ProcessPoolExecutor(1, forks.context(), initializer=_start_worker, initargs=arguments)

    def prepare(self, function: Callable[..., None], *args: Any) -> None:
        """Starts all processes, each of which runs the function first, and does not wait for it.

        In a thread, as the process that they are forked from may still load.
        """

        def start() -> None:
            for _ in self._pools:
                with suppress(BrokenProcessPool, OSError, EOFError):  # `submit` makes those that lack
                    self._submit(function, *args)

        self._preparing = threading.Thread(target=start, daemon=True)
        self._preparing.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Runs it on the process that has the least to do."""
        self._end_preparing()
        return self._submit(fn, *args, **kwargs)

    def _end_preparing(self) -> None:
        if self._preparing:
            self._preparing.join()
            self._preparing = None

    def _submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        self._flying = [[future for future in futures if not future.done()] for futures in self._flying]
        slot = min(range(len(self._pools)), key=lambda slot: len(self._flying[slot]))
        self._pools[slot], future = self._start(self._pools[slot] or self._new_pool(), partial(fn, *args, **kwargs))
        self._flying[slot].append(future)
        return future

    def _start(self, pool: ProcessPoolExecutor, task: Callable[[], Any]) -> tuple[ProcessPoolExecutor, Future[Any]]:
        """Runs it in the pool or, if that is broken, in a new one. Returns the pool, too.

        A process that was just killed may take a moment to end, and no worker can be forked from it meanwhile.
        """
        for pause_s in (0.0, 0.05, 0.2, 1.0):
            try:
                return pool, pool.submit(task)
            except (BrokenProcessPool, OSError, EOFError):  # the last two: the process that it would be forked from was killed
                pool.shutdown(wait=False, cancel_futures=True)
                time.sleep(pause_s)
                pool = self._new_pool()
        return pool, pool.submit(task)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the processes; with `cancel_futures` at once, in the middle of their tasks."""
        self._end_preparing()
        for pool in filter(None, self._pools):
            processes = list((pool._processes or {}).values())  # `shutdown` forgets them; other children are not ours to kill
            pool.shutdown(wait=wait and not cancel_futures, cancel_futures=cancel_futures)
            for process in processes if cancel_futures else ():
                process.kill()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.shutdown(cancel_futures=kind is not None)


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # on Linux: what Slurm, taskset or cgroups leave of them
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start_worker(progress_folder: str, environment: dict[str, str]) -> None:
    """Prepares a worker: the parent's environment, one thread, no interrupts of its own, and an end when the parent ends."""
    os.environ.clear()  # a fork has the one of the time when its server was started
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    progress.save_into(progress_folder)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tune_process()


@cache
def tune_process() -> None:
    """Keeps the libraries of this process to one core per task from now on, and has it look for garbage less often."""
    gc.set_threshold(_GARBAGE_EVERY)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import pyarrow

    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

"""`run_tasks`: tasks on any executor of `concurrent.futures`, with retries.

Tasks are idempotent, so a task whose worker died is run again. A task that keeps killing its worker is named.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Protocol, TypeVar

from shards.errors import UserError

MAX_DEATHS = 3  # of workers during one task, which is then given up
_TICK_S = 0.2


@dataclass(frozen=True)
class Engine:
    """An executor and how it is to be used."""

    executor: Executor
    window: Callable[[], int]  # how many tasks should be in flight now
    elsewhere: bool  # whether its workers may see another disk than this process
    progress_folder: str | None = None  # where its workers save their progress, if they can
    prepare: Callable[..., None] = lambda *_: None  # has each worker run a function with arguments, without waiting, if it can


class Task(Protocol):
    """One unit of work. The engine knows its name, for messages."""

    @property
    def name(self) -> str:
        """Unique in a run: deaths are counted by it."""


TaskT = TypeVar("TaskT", bound=Task)
ResultT = TypeVar("ResultT")


class WorkerDiedError(BrokenExecutor):
    """What an engine raises when `deaths` workers died, one after the other, during one task."""

    def __init__(self, deaths: int) -> None:
        super().__init__(deaths)
        self.deaths = deaths


class DeadlyTaskError(UserError):
    """The task `name` ended its worker process MAX_DEATHS times."""

    def __init__(self, name: str, deaths: int) -> None:
        super().__init__(
            f"{name}: its worker process died {deaths} times, perhaps because memory ran out; set fewer --workers, or "
            "take that input out; finished tasks are kept"
        )
        self.name = name


def run_tasks(
    engine: Engine, function: Callable[[TaskT], ResultT], tasks: Iterable[TaskT], tick: Callable[[], None] = lambda: None
) -> Iterator[tuple[TaskT, ResultT]]:
    """Yields each task with its result as it is done, with at most `engine.window()` of them in flight.

    A task that raises ends the run with its error. A task whose worker died is tried again; after MAX_DEATHS deaths
    DeadlyTaskError names it. `tick` is called several times per second.
    """
    waiting, again = iter(tasks), list[TaskT]()
    deaths: dict[str, int] = {}
    flying: dict[Future[ResultT], TaskT] = {}
    done: SimpleQueue[Future[ResultT]] = SimpleQueue()
    while True:
        while len(flying) < engine.window() and (task := again.pop() if again else next(waiting, None)) is not None:
            future = engine.executor.submit(function, task)
            flying[future] = task
            future.add_done_callback(done.put)  # not concurrent.futures.wait: it looks at all that fly, each time
        if not flying:
            return
        futures = _take(done)
        tick()
        for future in futures:
            task = flying.pop(future)
            try:
                result = future.result()
            except BrokenExecutor as error:
                _count_death(deaths, task.name, error)
                again.append(task)
                continue
            yield task, result


def _take(done: "SimpleQueue[Future[ResultT]]") -> list[Future[ResultT]]:
    """All futures that are done, after waiting up to a tick for the first."""
    futures: list[Future[ResultT]] = []
    with suppress(Empty):
        futures.append(done.get(timeout=_TICK_S))
        while True:
            futures.append(done.get_nowait())
    return futures


def _count_death(deaths: dict[str, int], name: str, error: BrokenExecutor) -> None:
    deaths[name] = deaths.get(name, 0) + (error.deaths if isinstance(error, WorkerDiedError) else 1)
    if deaths[name] >= MAX_DEATHS:
        raise DeadlyTaskError(name, deaths[name]) from error

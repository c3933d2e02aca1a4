import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from engine_tasks import MarkTask, work

from prep.engines.engine import Engine, run_tasks


def test_any_executor_will_do(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as executor:
        tasks = [MarkTask(n, str(tmp_path)) for n in range(5)]
        results = [result for _, result in run_tasks(Engine(executor, lambda: 3, elsewhere=False), work, tasks)]
    assert sorted(results) == [0, 10, 20, 30, 40]


class InOrder(Executor):
    """Finishes the oldest task in flight whenever a new one comes, so that the number in flight stays the same."""

    def __init__(self, in_flight: int) -> None:
        self.in_flight, self.most = in_flight, 0
        self.waiting: list[tuple[Future[Any], Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, fn(*args)))
        self.most = max(self.most, len(self.waiting))
        if len(self.waiting) == self.in_flight:
            first, result = self.waiting.pop(0)
            first.set_result(result)
        return future


def number_of(task: MarkTask) -> int:
    return task.number


def calls_of(in_flight: int, num_tasks: int) -> int:
    """How many Python calls it takes to run the tasks with so many in flight."""
    calls = 0

    def see(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    executor = InOrder(in_flight)
    tasks = [MarkTask(number, "") for number in range(num_tasks)]
    running = run_tasks(Engine(executor, lambda: in_flight, elsewhere=False), number_of, tasks)
    sys.setprofile(see)
    try:
        results = [next(running)[1] for _ in range(num_tasks - in_flight)]
    finally:
        sys.setprofile(None)
    assert results == list(range(num_tasks - in_flight)) and executor.most == in_flight
    return calls


def test_a_task_costs_the_same_however_many_are_in_flight() -> None:
    few, many = calls_of(in_flight=2, num_tasks=2002), calls_of(in_flight=1000, num_tasks=3000)
    assert many < 2 * few, "the work of waiting grows with the tasks in flight"

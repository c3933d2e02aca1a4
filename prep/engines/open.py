"""`open_engine`: processes of this machine, a Dask or Ray cluster, or an Executor of the user's own."""

import importlib
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from prep.engines.adapter import AHEAD, AdaptedExecutor, lost_error, one_line
from prep.engines.engine import Engine
from prep.engines.local import LocalExecutor, cores
from prep.engines.on_dask import dask_engine
from prep.engines.on_ray import ray_engine
from shards import storage
from shards.errors import UserError


def open_engine(engine: str, workers: int) -> AbstractContextManager[Engine]:
    """The engine of `--engine` and `--workers` (0: all cores or all of the cluster), closed at the end of the context.

    Raises UserError if it cannot be started or reached.
    """
    kind, colon, address = engine.partition(":")
    if engine == "local":
        return _local(workers or cores())
    if kind == "dask" and bool(colon) == bool(address):
        return dask_engine(engine, address, workers)
    if kind == "ray" and bool(colon) == bool(address):
        return ray_engine(engine, address, workers)
    return _own(engine, workers or cores())


@contextmanager
def _local(workers: int) -> Iterator[Engine]:
    with storage.temporary_folder() as folder, LocalExecutor(workers, folder) as executor:
        yield Engine(executor, lambda: workers, elsewhere=False, progress_folder=folder, prepare=executor.prepare)


@contextmanager
def _own(engine: str, workers: int) -> Iterator[Engine]:
    """The Executor that a function of the user's returns; the function is called again when an executor breaks."""
    factory = _import_factory(engine)
    executors = [_make(engine, factory, workers)]

    def start(*task: Any) -> Future[Any]:
        try:
            return executors[-1].submit(*task)
        except BrokenExecutor:
            executors.append(_make(engine, factory, workers))
            return executors[-1].submit(*task)

    def translate(error: BaseException) -> BaseException:
        if isinstance(error, CancelledError):
            return lost_error(engine, "it cancelled a task")
        return error

    try:
        yield Engine(AdaptedExecutor(engine, start, translate), lambda: AHEAD * workers, elsewhere=True)
    finally:
        for executor in executors:
            _shut(executor)


def _shut(executor: Executor) -> None:
    """Ends the user's executor, whatever its own `shutdown` accepts or raises: all results are in."""
    with suppress(Exception):
        try:
            executor.shutdown(wait=False, cancel_futures=True)
        except TypeError:  # a subclass that does not know cancel_futures
            executor.shutdown(wait=False)


def _import_factory(engine: str) -> Callable[[int], Any]:
    module, _, name = engine.partition(":")
    try:
        factory: Callable[[int], Any] = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # it is the user's code
        raise UserError(
            f"--engine {engine}: cannot be imported ({one_line(error)}); use local, dask, ray or MODULE:FACTORY"
        ) from error
    return factory


def _make(engine: str, factory: Callable[[int], Any], workers: int) -> Executor:
    try:
        executor = factory(workers)
    except (Exception, SystemExit) as error:  # it is the user's code
        raise UserError(f"--engine {engine}: fails with {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(executor, Executor):
        raise UserError(f"--engine {engine}: returned {executor!r}, must return an Executor of concurrent.futures")
    return executor

"""Tasks on Dask: its own cluster of processes here, or a scheduler at an address with whatever workers it has."""

from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial
from typing import Any

from prep.engines.adapter import CONNECT_S, AdaptedExecutor, Engine, cores, lost, nobody, one_line, window_of
from prep.engines.local import MAX_DEATHS, WorkerDiedError
from shards.errors import UserError

_LOGGERS = ("distributed", "distributed.client", "distributed.core", "distributed.nanny", "distributed.scheduler")
_SETTINGS = {
    "logging": dict.fromkeys(_LOGGERS, "critical"),  # what matters of it is said here, in a line
    "distributed.comm.timeouts.connect": CONNECT_S,
    "distributed.scheduler.allowed-failures": MAX_DEATHS - 1,  # of a scheduler that is started here
    "distributed.worker.daemon": False,
}


@contextmanager
def dask_engine(engine: str, address: str, workers: int) -> Iterator[Engine]:
    """The engine of `--engine dask[:ADDRESS]`. Raises UserError where it cannot be had."""
    try:
        import dask

        dask.config.set(_SETTINGS)  # before the next import, which reads it
        import distributed
    except ImportError as error:
        raise UserError(f"--engine {engine}: the package distributed is missing; pip install '.[dask]'") from error
    with _client(distributed, engine, address, workers) as client:
        # Not its get_executor(): there a result that is lost with the connection leaves its future open for ever.
        executor = AdaptedExecutor(engine, partial(client.submit, pure=False), partial(_translate, engine))
        window = window_of(engine, workers if address else 0, lambda: sum(client.nthreads().values()))
        yield Engine(executor, window, elsewhere=True)


@contextmanager
def _client(distributed: Any, engine: str, address: str, workers: int) -> Iterator[Any]:
    if not address:
        # A task bounds its own memory, and no result stays with a worker: the limit of each is the machine's.
        options = {"threads_per_worker": 1, "memory_limit": 1.0, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
        with (
            distributed.LocalCluster(n_workers=workers or cores(), **options) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = distributed.Client(address, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise nobody(engine, error) from error
    with client:
        yield client


def _translate(engine: str, error: BaseException) -> BaseException:
    from distributed import KilledWorker
    from distributed.comm.core import CommClosedError

    if isinstance(error, KilledWorker):
        return WorkerDiedError(error.allowed_failures + 1)
    if isinstance(error, CancelledError | CommClosedError):
        return lost(engine, "its scheduler is gone")
    if isinstance(error, ImportError) or "deserializ" in str(error):
        return UserError(f"--engine {engine}: {one_line(error)}; install this project on its scheduler and workers too")
    return error

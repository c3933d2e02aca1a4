"""Tasks on Dask: a cluster of processes on this machine, or a scheduler at an address with the workers that it has."""

from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial
from typing import Any

from prep.engines.adapter import CONNECT_S, AdaptedExecutor, lost_error, no_answer_error, one_line, window_of
from prep.engines.engine import MAX_DEATHS, Engine, WorkerDiedError
from prep.engines.forks import MEMORY
from prep.engines.local import cores
from shards.errors import UserError

_LOGGERS = ("distributed", "distributed.client", "distributed.core", "distributed.nanny", "distributed.scheduler")
_SETTINGS = {
    "logging": dict.fromkeys(_LOGGERS, "critical"),  # what matters of it is one line of ours
    "distributed.comm.timeouts.connect": CONNECT_S,
    "distributed.scheduler.allowed-failures": MAX_DEATHS - 1,  # of a scheduler that is started here
    "distributed.worker.daemon": False,
    # Of workers that are started here. Dask's own setting gives memory back at once, which took a twentieth of the time.
    **{f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in MEMORY.items()},
}


@contextmanager
def dask_engine(engine: str, address: str, workers: int) -> Iterator[Engine]:
    """The engine of `--engine dask[:ADDRESS]`. Raises UserError if it cannot be started or reached."""
    try:
        import dask

        dask.config.set(_SETTINGS)  # before the next import, which reads it
        import distributed
    except ImportError as error:
        raise UserError(f"--engine {engine}: the package distributed is missing; pip install '.[dask]'") from error
    with _client(distributed, engine, address, workers) as client:
        # Not its get_executor(): a future whose result is lost with the connection would stay open there for ever.
        executor = AdaptedExecutor(engine, partial(client.submit, pure=False), partial(_translate, engine))
        window = window_of(engine, workers if address else 0, lambda: sum(client.nthreads().values()))
        yield Engine(executor, window, elsewhere=True)


@contextmanager
def _client(distributed: Any, engine: str, address: str, workers: int) -> Iterator[Any]:
    if not address:
        # A task bounds its own memory, and no result stays on a worker, so a worker's limit is the machine's.
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
        raise no_answer_error(engine, error) from error
    with client:
        yield client


def _translate(engine: str, error: BaseException) -> BaseException:
    from distributed import KilledWorker
    from distributed.comm.core import CommClosedError

    if isinstance(error, KilledWorker):
        return WorkerDiedError(error.allowed_failures + 1)
    if isinstance(error, CancelledError | CommClosedError):
        return lost_error(engine, "its scheduler is gone")
    if isinstance(error, ImportError) or "deserializ" in str(error):
        return UserError(f"--engine {engine}: {one_line(error)}; install this project on its scheduler and workers too")
    return error

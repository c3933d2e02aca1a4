"""Tasks on Ray: its processes on this machine, or a cluster at an address."""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from prep.engines.adapter import (
    CONNECT_S,
    AdaptedExecutor,
    lost_error,
    no_answer_error,
    one_line,
    run_at_worker,
    window_of,
)
from prep.engines.engine import Engine, WorkerDiedError
from prep.engines.local import cores
from shards.errors import UserError


@contextmanager
def ray_engine(engine: str, address: str, workers: int) -> Iterator[Engine]:
    """The engine of `--engine ray[:ADDRESS]`. Raises UserError if it cannot be started or reached."""
    try:
        import ray
    except ImportError as error:
        raise UserError(f"--engine {engine}: the package ray is missing; pip install '.[ray]'") from error
    _check_port(engine, address)
    where: dict[str, Any] = {"address": address}
    if not address:
        where = {"address": "local", "num_cpus": workers or cores(), "include_dashboard": False}
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise no_answer_error(engine, error) from error
    try:
        remote = ray.remote(num_cpus=1, max_retries=0)(run_at_worker)
        executor = AdaptedExecutor(engine, lambda _, *task: remote.remote(*task).future(), partial(_translate, engine))
        window = window_of(engine, workers if address else 0, lambda: _cores_of(ray))
        yield Engine(executor, window, elsewhere=True)
    finally:
        ray.shutdown()


def _cores_of(ray: Any) -> int:
    return int(ray.cluster_resources().get("CPU", 0))


def _check_port(engine: str, address: str) -> None:
    """Ray itself would try a closed port for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        except (OSError, OverflowError) as error:
            raise no_answer_error(engine, error) from error


def _translate(engine: str, error: BaseException) -> BaseException:
    from ray import exceptions

    if isinstance(error, exceptions.RayTaskError):
        cause: BaseException = error.cause  # what the task raised, or Ray itself where it cannot run there
        if isinstance(cause, exceptions.RayError):
            return UserError(f"--engine {engine}: {one_line(cause)}; install this project on every node")
        return cause
    if isinstance(error, exceptions.WorkerCrashedError | exceptions.OutOfMemoryError | exceptions.NodeDiedError):
        return WorkerDiedError(1)
    return lost_error(engine, one_line(error)) if isinstance(error, exceptions.RayError | ConnectionError) else error

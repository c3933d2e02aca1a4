"""Tasks on Ray: its processes on this machine, or a cluster at an address."""

import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
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

_TRY_EVERY_S = 3.0  # whether the head node answers


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
        count = window_of(engine, workers if address else 0, lambda: _cores_of(ray))
        head = _Head(engine, ray.get_runtime_context().gcs_address)
        yield Engine(executor, lambda: head.checked(count), elsewhere=True)
    finally:
        ray.shutdown()


class _Head:
    """The node that a cluster depends on. Ray itself would end this process, a minute after that node is gone."""

    def __init__(self, engine: str, address: str) -> None:
        self._engine, self._address = engine, address
        self._tried_at = self._seen_at = time.monotonic()

    def checked(self, window: Callable[[], int]) -> int:
        """The window; 1 while the node does not answer. Raises UserError after 20 seconds without an answer."""
        now = time.monotonic()
        if now - self._tried_at > _TRY_EVERY_S:
            self._tried_at = now
            try:
                _connect(self._address)
                self._seen_at = now
            except OSError as error:
                if now - self._seen_at > CONNECT_S:
                    raise lost_error(self._engine, "its head node is gone") from error
        return window() if self._seen_at == self._tried_at else 1  # to count its workers, Ray would wait for that node


def _cores_of(ray: Any) -> int:
    return int(ray.cluster_resources().get("CPU", 0))


def _check_port(engine: str, address: str) -> None:
    """Ray itself would try a closed port for minutes."""
    place = address.removeprefix("ray://")
    if re.fullmatch(r".+:\d+", place):
        try:
            _connect(place, CONNECT_S)
        except (OSError, OverflowError) as error:
            raise no_answer_error(engine, error) from error


def _connect(place: str, timeout_s: float = 1.0) -> None:
    host, _, port = place.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s).close()


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

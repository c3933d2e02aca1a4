"""Executors that tests give as `--engine executors:NAME`."""

from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context


def threads(workers: int) -> Executor:
    return ThreadPoolExecutor(workers)


def processes(workers: int) -> Executor:
    return ProcessPoolExecutor(workers, get_context("spawn"))


def none_at_all(workers: int) -> None:
    return None

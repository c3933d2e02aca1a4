"""Workers that are forked from a process which has loaded everything, while the parent still loads and plans.

    parent -> start() -> a process that loads what tasks need (preloaded/) -> a fork per worker, with the parent's environment

That process opens no file system and starts no thread of Python, so it is safe to fork. Elsewhere than on Linux, where system
libraries may not survive a fork, workers are spawned.
"""

import multiprocessing
import os
import sys
from multiprocessing.context import BaseContext
from pathlib import Path

_PRELOADED = "bert_shards_workers"
_FOLDER = Path(__file__).resolve().parent / "preloaded"
# The C library keeps the memory that arrays free, for the next ones: to get it again from the system took 3 % of the time.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}


def start() -> None:
    """Starts the process that workers are forked from, unless it runs. It ends with this process."""
    # A worker of an installed command loads the command before it knows its parent. multiprocessing marks it meanwhile.
    is_loading = getattr(multiprocessing.current_process(), "_inheriting", False)
    is_worker = multiprocessing.parent_process() is not None or is_loading
    if sys.platform != "linux" or is_worker:
        return
    from multiprocessing import forkserver

    before = dict(os.environ)
    path = os.pathsep.join(filter(None, (str(_FOLDER), before.get("PYTHONPATH"))))
    os.environ.update({**MEMORY, **before, "PYTHONPATH": path})
    try:
        forkserver.set_forkserver_preload([_PRELOADED])
        forkserver.ensure_running()
    finally:
        for name in (*MEMORY, "PYTHONPATH"):
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


def context() -> BaseContext:
    """How workers are made."""
    start()
    is_forked = sys.platform == "linux" and multiprocessing.parent_process() is None
    return multiprocessing.get_context("forkserver" if is_forked else "spawn")

"""Loads what workers need, once, into the process that they are forked from. Runs there only: see `prep.engines.forks`.

The packages are those beside this file, whatever lies in the working directory.
"""

import gc
import os
import signal
import sys
from contextlib import suppress
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

signal.signal(signal.SIGINT, signal.SIG_IGN)
_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parent.parent.parent


def _load() -> None:
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a fork copies one thread
    spec = spec_from_file_location("bert_shards", _ROOT / "bert_shards.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["bert_shards"] = module_from_spec(spec)
    spec.loader.exec_module(module)  # the three packages, from their place
    with suppress(ImportError, AttributeError):  # no loop needs the extensions that other packages bring to numba
        from numba.core import entrypoints

        entrypoints._already_initialized = True
    import numpy as np

    import prep.pairing.pair
    import prep.tokens.tokenize
    import prep.tokens.vocabulary  # noqa: F401  # a task each
    from prep.pairing.packing import pack

    sys.modules["cffi"] = None  # type: ignore[assignment]  # numba would load all of it, where it is installed
    try:
        pack(np.array([5, 3]), 8)  # the first loop that numba loads takes most of the time of all
    finally:
        del sys.modules["cffi"]  # workers may need it, for a bucket


gc.disable()  # to look for garbage among what stays costs a sixth of the loading, and a copy of its memory in each worker
with suppress(Exception):  # a worker that misses anything loads it itself, and raises then
    sys.path[:] = [place for place in sys.path if place not in ("", str(_HERE))]
    _load()
gc.freeze()
gc.enable()

"""Loops compiled with numba, cached on disk.

numba's own cache notices a change in the file of a function, but not in a function that it calls from another file.
So the cache's folder carries a digest of every source of the project: after any change of code nothing stale runs.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


@cache
def _cache_folder(parent: str) -> str:
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256(numba.__version__.encode())
    for package in ("prep", "shards", "train"):
        for source in sorted((root / package).glob("*.py")):
            digest.update(source.read_bytes())
    name = f"numba-{digest.hexdigest()[:16]}"
    folder = (Path(parent) if parent else root / "shards" / "__pycache__") / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    return str(folder) if writable else tempfile.mkdtemp(prefix=name)  # nobody else's: what is cached is run


def compiled(function: Function) -> Function:
    """`function` compiled on its first call for the types of its arguments, without the interpreter's lock."""
    config: Any = numba.config
    previous, config.CACHE_DIR = config.CACHE_DIR, _cache_folder(config.CACHE_DIR)
    try:
        return cast(Function, numba.njit(cache=True, nogil=True)(function))
    finally:
        config.CACHE_DIR = previous

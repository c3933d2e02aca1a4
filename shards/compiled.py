"""Loops compiled with numba, cached on disk.

numba's own cache notices a change in the file of a function, but not in a function or a constant that this file imports.
So the cache's folder carries a digest of the function's module and of every module of this project that it imports,
directly or not: after a change of any of them nothing stale runs, and a change of another module recompiles nothing.
"""

import ast
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, cached_property, update_wrapper
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])

_LOCK = RLock()  # the folder of the cache is a setting of numba for the whole process
_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("prep", "shards", "train")


class Loop:
    """A function that numba compiles on its first call. Until then numba, which takes 0.3 s to import, is not imported."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__wrapped__ = function
        update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> Any:
        """The result of the compiled function."""
        return self.dispatcher(*arguments)

    @cached_property
    def dispatcher(self) -> Any:
        """numba's own object."""
        with _LOCK:
            if "dispatcher" not in vars(self):  # another thread was faster
                vars(self)["dispatcher"] = self._make()
            return vars(self)["dispatcher"]

    def _make(self) -> Any:
        import numba

        config: Any = numba.config
        source = self.__wrapped__.__code__.co_filename
        previous, config.CACHE_DIR = config.CACHE_DIR, _cache_folder(config.CACHE_DIR, source, numba.__version__)
        try:
            return numba.njit(cache=True, nogil=True)(self.__wrapped__)
        finally:
            config.CACHE_DIR = previous

    @property
    def _numba_type_(self) -> Any:
        """What numba asks for where one loop calls another."""
        return self.dispatcher._numba_type_


def compiled(function: Function) -> Function:
    """`function`, compiled on its first call for the types of its arguments; it runs without the interpreter's lock."""
    return cast(Function, Loop(function))


@cache
def _cache_folder(parent: str, source: str, version: str) -> str:
    digest = hashlib.sha256(version.encode())
    for path in sorted(sources_of(Path(source))):
        digest.update(path.read_bytes())
    name = f"numba-{digest.hexdigest()[:16]}"
    folder = (Path(parent) if parent else _ROOT / "shards" / "__pycache__") / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    return str(folder) if writable else tempfile.mkdtemp(prefix=name)  # private: code in the cache is executed


def sources_of(source: Path) -> set[Path]:
    """The file itself and the files of this project that it imports, directly or not."""
    sources, waiting = set[Path](), [source]
    while waiting:
        path = waiting.pop()
        if path not in sources:
            sources.add(path)
            waiting.extend(_imported_by(path))
    return sources


@cache
def _imported_by(path: Path) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(_imports(ast.parse(path.read_bytes()))))


def _imports(tree: ast.Module) -> Iterator[Path]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name.partition(".")[0] in _PACKAGES:
                module = _ROOT.joinpath(*name.split("."))
                yield from (file for file in (module.with_suffix(".py"), module / "__init__.py") if file.is_file())

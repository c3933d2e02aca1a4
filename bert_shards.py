"""The library: what other programs import, whatever the files beside them are called.

    from bert_shards import ShardStream, open_data_set

The commands live in the packages `prep`, `shards` and `train`. A script finds the files of its own folder first, so a
`train.py` there hides our package of that name. This module therefore loads the three packages from the place where it was
installed itself. From then on `import train` means ours in that process.

Names are loaded when they are first used: `open_data_set` needs no torch, `ShardStream` does.
"""

import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shards.dataset import open_data_set
    from shards.errors import UserError
    from shards.manifest import Manifest
    from train.data.batch import PackedBatch
    from train.stream import ShardStream

__all__ = ["Manifest", "PackedBatch", "ShardStream", "UserError", "open_data_set"]

_HOMES = {
    "Manifest": "shards.manifest",
    "PackedBatch": "train.data.batch",
    "ShardStream": "train.stream",
    "UserError": "shards.errors",
    "open_data_set": "shards.dataset",
}
_PLACE = Path(__file__).resolve().parent


def _load_package(name: str) -> None:
    """Imports the package `name` that lies beside this file. Raises ImportError if another module has taken its name."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        if Path(str(loaded.__file__)).resolve().parent != _PLACE / name:
            raise ImportError(
                f"{loaded.__file__} is already imported as {name!r}, the name of a package of bert-shards; "
                "import bert_shards before it, or rename that file"
            )
        return
    spec = PathFinder.find_spec(name, [str(_PLACE)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{_PLACE / name} is missing; install bert-shards again")
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


for _name in ("shards", "prep", "train"):
    _load_package(_name)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_HOMES[name]), name)
    return value

"""`--row-log`: for audits, which rows each rank was given in which step.

One JSONL file a rank and start, `start-SSSS-rank-RRRR.jsonl`, with lines {"step": s, "rows": [ids]}; a row's id is its
index in its split. A start that goes on from a checkpoint does later steps again: for each step the latest start holds.
"""

import json
import re
from collections.abc import Sequence
from typing import IO

from shards import storage
from shards.errors import UserError
from train.ranks import Ranks

_NAME = re.compile(r"start-(\d{4,})-rank-\d{4,}\.jsonl")


class RowLog:
    """The file of this rank and start. Raises UserError when it cannot be written."""

    def __init__(self, folder: str, ranks: Ranks) -> None:
        """An empty `folder`: nothing is written."""
        self._file: IO[bytes] | None = None
        if not folder:
            return
        if not storage.is_local(folder):
            raise UserError(f"--row-log {folder}: must be a folder on a disk, because lines are appended to it")
        starts = max(ranks.gather(ranks.agreed(lambda: _last_start(folder))))
        path = storage.local_path(folder) / f"start-{starts + 1:04d}-rank-{ranks.rank:04d}.jsonl"

        def begin() -> None:
            with storage.translated(str(path), "write"):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(path, "xb", buffering=0)  # noqa: SIM115  # open for the run

        ranks.agreed(begin)

    def write(self, step: int, rows: Sequence[int]) -> None:
        """One line, which outlives the process from here on."""
        if self._file is not None:
            with storage.translated(self._file.name, "write"):
                self._file.write(json.dumps({"step": step, "rows": list(rows)}).encode() + b"\n")

    def close(self) -> None:
        """No more lines."""
        if self._file is not None:
            self._file.close()


def _last_start(folder: str) -> int:
    names = (storage.relative(info.url, folder) for info in storage.list_files(folder))
    return max((int(found[1]) for found in map(_NAME.fullmatch, names) if found), default=0)

"""`--row-log`: for audits, which rows each rank got in which step.

One JSONL file per rank and start, `start-SSSS-rank-RRRR.jsonl`, with lines {"step": s, "rows": [ids]}. A row's id is its
index in its split; in a run of several data sets it is NAME:INDEX. A start that resumes from a checkpoint repeats later
steps: for each step the latest start is valid.
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
        """With an empty `folder` nothing is written."""
        self._file: IO[bytes] | None = None
        if not folder:
            return
        if not storage.is_local(folder):
            raise UserError(f"--row-log {folder}: must be a folder on a disk, because the log appends lines")
        last_start = max(ranks.gather(ranks.agreed(lambda: _last_start(folder))))
        path = storage.local_path(folder) / f"start-{last_start + 1:04d}-rank-{ranks.rank:04d}.jsonl"

        def create() -> None:
            with storage.translated(str(path), "write"):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(path, "xb", buffering=0)  # noqa: SIM115  # open for the run

        ranks.agreed(create)

    def write(self, step: int, rows: Sequence[int] | Sequence[str]) -> None:
        """Writes one line. The file is unbuffered: the line survives a kill of the process."""
        if self._file is not None:
            with storage.translated(self._file.name, "write"):
                self._file.write(json.dumps({"step": step, "rows": list(rows)}).encode() + b"\n")

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()


def _last_start(folder: str) -> int:
    names = (storage.relative(info.url, folder) for info in storage.list_files(folder))
    return max((int(match[1]) for match in map(_NAME.fullmatch, names) if match), default=0)

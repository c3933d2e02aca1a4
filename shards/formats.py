"""The formats of shards. Each is a module with a suffix for its files and three functions."""

from collections.abc import Sequence
from typing import Protocol

from shards import parquet, tar
from shards.gate.rows import FORMAT_LIMITS, Limits
from shards.manifest import RowGroup
from shards.schema import Rows


class Format(Protocol):
    """Rows -> the bytes of a shard and the table of its row groups; and back, all row groups or some.

    `check_stream` checks what readers of whole files need: `read` starts at row groups and does not see it.
    """

    SUFFIX: str

    def write(self, rows: Rows, group_rows: int) -> tuple[memoryview, list[RowGroup]]: ...  # noqa: D102

    def read(  # noqa: D102
        self,
        source: str | memoryview | bytes,
        table: Sequence[RowGroup],
        groups: Sequence[int] | None = None,
        limits: Limits = FORMAT_LIMITS,
    ) -> Rows: ...

    def check_stream(self, data: memoryview, table: Sequence[RowGroup]) -> None: ...  # noqa: D102


FORMATS: dict[str, Format] = {"parquet": parquet, "webdataset": tar}

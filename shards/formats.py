"""The formats of shards. Each is a module with a suffix for its files and two functions, `write` and `read`."""

from collections.abc import Sequence
from typing import Protocol

from shards import parquet, tar
from shards.manifest import RowGroup
from shards.schema import Rows


class Format(Protocol):
    """Rows -> the bytes of a shard and the table of its row groups; and back, all row groups or some."""

    SUFFIX: str

    def write(self, rows: Rows, group_rows: int) -> tuple[memoryview, list[RowGroup]]: ...  # noqa: D102

    def read(  # noqa: D102
        self, source: str | memoryview | bytes, table: Sequence[RowGroup], groups: Sequence[int] | None = None
    ) -> Rows: ...


FORMATS: dict[str, Format] = {"parquet": parquet, "webdataset": tar}

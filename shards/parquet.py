"""Rows <-> Parquet, one file per shard. README.md describes what other readers may rely on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from shards.gate.pages import Group, check_pages, footer_of, read_footer
from shards.gate.rows import FORMAT_LIMITS, Limits
from shards.manifest import RowGroup
from shards.schema import COLUMNS, FORMAT_VERSION, Ints, Offsets, Rows, column_dtypes, concatenate, rows_from_columns

SUFFIX = ".parquet"
_COMPRESSION_LEVEL = 1  # measured with BYTE_STREAM_SPLIT: levels 3 and 6 take 1.6 and 3 times as long and save nothing
_HEAD = b"PAR1"


def write(rows: Rows, group_rows: int) -> tuple[memoryview, list[RowGroup]]:
    """The bytes of a shard and the table of its row groups of `group_rows` rows each."""
    names, arrays, fields = [], [], []
    for name, offsets, values in rows.columns():
        kind = _list_type(values.dtype)
        arrays.append(pa.ListArray.from_arrays(_array(offsets.astype(np.int32)), _array(values), type=kind))
        fields.append(pa.field(name, kind, nullable=False))
        names.append(name)
    schema = pa.schema(fields, metadata={"format_version": str(FORMAT_VERSION)})
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        compression_level=_COMPRESSION_LEVEL,
        use_dictionary=False,
        use_byte_stream_split=[f"{name}.list.element" for name in names if name != "next_sentence_label"],
        write_statistics=False,
        write_page_checksum=True,
    ) as writer:
        writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=group_rows)
    data = memoryview(sink.getvalue())
    return data, _table(read_footer(footer_of(data)))


def _array(values: npt.NDArray[np.integer]) -> pa.Array:
    """The values as they are in memory. `pa.array` would import pandas first, where that is installed."""
    return pa.Array.from_buffers(
        pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))]
    )


def _list_type(dtype: np.dtype[Any]) -> pa.DataType:
    return pa.list_(pa.field("element", pa.from_numpy_dtype(dtype), nullable=False))


def _table(groups: Sequence[Group]) -> list[RowGroup]:
    return [RowGroup(group.rows, group.chunks[0].offset, sum(chunk.bytes for chunk in group.chunks)) for group in groups]


def read(
    source: str | memoryview | bytes,
    table: Sequence[RowGroup],
    groups: Sequence[int] | None = None,
    limits: Limits = FORMAT_LIMITS,
) -> Rows:
    """The rows of a shard, from a local path or its bytes, with its table; only those of `groups` if it is set.

    Raises ValueError or OSError when the file is damaged, is not what its table says, or is beyond the limits.
    """
    data = memoryview(Path(source).read_bytes() if isinstance(source, str) else source)
    footer = footer_of(data)
    chunks = read_footer(footer)
    if _table(chunks) != list(table):
        raise ValueError("the row groups are not those of the manifest's table")
    requested = range(len(table)) if groups is None else groups
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True, pre_buffer=False) as file:
            names = _check_schema(file.schema_arrow)
            left = {name: limits.total(name) for name in names}
            for group in requested:
                num_rows = table[group].rows
                for name, chunk in zip(names, chunks[group].chunks, strict=True):
                    most = min(num_rows * limits.values(name), left[name])
                    num_entries = check_pages(data, chunk, num_rows + most)  # a row without values has an entry too
                    left[name] -= min(max(0, num_entries - num_rows), left[name])
            return concatenate([_rows(file.read_row_group(group, use_threads=False)) for group in requested])
    except pa.ArrowException as error:
        raise ValueError(f"not a readable Parquet file: {error}") from error


def _check_schema(schema: pa.Schema) -> list[str]:
    """The names of the columns. Raises ValueError unless each is a list of unsigned integers, as `write` makes it."""
    version = (schema.metadata or {}).get(b"format_version", b"none").decode("ascii", "replace")
    if version != str(FORMAT_VERSION):
        raise ValueError(f"format_version is {version}, this reader knows {FORMAT_VERSION}")
    small, large = column_dtypes(1), column_dtypes(1 << 17)
    names: list[str] = list(schema.names)
    for field in schema:
        allowed = [_list_type(dtypes[field.name]) for dtypes in (small, large) if field.name in COLUMNS]
        if field.type not in allowed or field.nullable or names.count(field.name) > 1:
            raise ValueError(f"the column {field.name[:60]!r} is {str(field.type)[:60]}, which no shard has")
    return names


def check_stream(data: memoryview, table: Sequence[RowGroup]) -> None:
    """Checks what other readers need beside the row groups. Raises ValueError."""
    del table
    if data[: len(_HEAD)] != _HEAD:
        raise ValueError("it does not begin as a Parquet file")


def _rows(table: pa.Table) -> Rows:
    columns: dict[str, tuple[Offsets, Ints]] = {}
    for name in table.column_names:
        chunks = table.column(name).combine_chunks()
        chunk = chunks.chunk(0) if isinstance(chunks, pa.ChunkedArray) else chunks
        offsets = chunk.offsets.to_numpy().astype(np.int64)
        columns[name] = (offsets - offsets[0], chunk.values.to_numpy()[offsets[0] : offsets[-1]])
    return rows_from_columns(columns)

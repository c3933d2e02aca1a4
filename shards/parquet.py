"""Rows <-> Parquet, one file a shard. See README.md for what any other reader may rely on."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.manifest import RowGroup
from shards.schema import COLUMNS, FORMAT_VERSION, Ints, Offsets, Rows, concatenate, rows_from_columns

SUFFIX = ".parquet"
_COMPRESSION_LEVEL = 1  # measured with BYTE_STREAM_SPLIT: levels 3 and 6 take 1.6 and 3 times as long and save nothing


def write(rows: Rows, group_rows: int) -> tuple[memoryview, list[RowGroup]]:
    """The bytes of a shard and the table of its row groups of `group_rows` rows each."""
    names, arrays, fields = [], [], []
    for name, offsets, values in rows.columns():
        element = pa.field("element", pa.from_numpy_dtype(values.dtype), nullable=False)
        arrays.append(pa.ListArray.from_arrays(offsets.astype(np.int32), pa.array(values), type=pa.list_(element)))
        fields.append(pa.field(name, arrays[-1].type, nullable=False))
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
    buffer = sink.getvalue()
    return memoryview(buffer), _row_groups(pq.read_metadata(pa.BufferReader(buffer)))


def _row_groups(metadata: pq.FileMetaData) -> list[RowGroup]:
    groups = []
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        columns = [group.column(column) for column in range(group.num_columns)]
        offset = min(column.data_page_offset for column in columns)
        groups.append(RowGroup(group.num_rows, offset, sum(column.total_compressed_size for column in columns)))
    return groups


def read(source: str | memoryview | bytes, table: Sequence[RowGroup], groups: Sequence[int] | None = None) -> Rows:
    """The rows of a shard, given as a local path or its bytes, with its table; only those of `groups` where given.

    Raises ValueError or OSError when the file is damaged or is not what its table says.
    """
    handle = source if isinstance(source, str) else pa.BufferReader(source)
    with pq.ParquetFile(handle, page_checksum_verification=True, pre_buffer=False) as file:
        version = (file.schema_arrow.metadata or {}).get(b"format_version", b"none").decode()
        if version != str(FORMAT_VERSION):
            raise ValueError(f"format_version is {version}, this reader knows {FORMAT_VERSION}")
        if _row_groups(file.metadata) != list(table):
            raise ValueError("the row groups are not those of the manifest's table")
        columns = [name for name in COLUMNS if name in file.schema_arrow.names]
        wanted = range(len(table)) if groups is None else groups
        return concatenate([_rows(file.read_row_group(group, columns=columns, use_threads=False)) for group in wanted])


def _rows(table: pa.Table) -> Rows:
    columns: dict[str, tuple[Offsets, Ints]] = {}
    for name in table.column_names:
        chunks = table.column(name).combine_chunks()
        chunk = chunks.chunk(0) if isinstance(chunks, pa.ChunkedArray) else chunks
        offsets = chunk.offsets.to_numpy().astype(np.int64)
        columns[name] = (offsets - offsets[0], chunk.values.to_numpy()[offsets[0] : offsets[-1]])
    return rows_from_columns(columns)

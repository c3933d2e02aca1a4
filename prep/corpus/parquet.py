"""Row groups of Parquet files -> documents."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prep.corpus.documents import MAX_DOCUMENT_BYTES, Document, Fault, Rule, Span, too_long
from prep.corpus.files import InputFile
from shards import storage
from shards.errors import UserError

DAMAGE = (OSError, pa.ArrowException)
"""What pyarrow raises for a damaged file; an OSError with a number is about the storage instead."""
_BUFFER_BYTES = 1 << 20
_MAX_BATCH_ROWS = 256
_BATCH_BYTES = 8 << 20


@contextmanager
def open_parquet(file: InputFile) -> Iterator[pq.ParquetFile]:
    """The Parquet file, read in small steps. Raises pyarrow's errors when it is damaged."""
    options: dict[str, Any] = {"pre_buffer": False, "buffer_size": _BUFFER_BYTES, "page_checksum_verification": True}
    if storage.is_local(file.url):
        with pq.ParquetFile(str(storage.local_path(file.url)), **options) as parquet:
            yield parquet
    else:
        with storage.open_read(file.url) as stream, pq.ParquetFile(stream, **options) as parquet:
            yield parquet


def read_parquet(span: Span, rule: Rule) -> Iterator[Document | Fault]:
    """The documents of a run of row groups; after a damaged page, those of the next group. Raises StorageError, UserError."""
    row = 0
    try:
        with open_parquet(span.file) as parquet:
            check_column(span.file, parquet.schema_arrow, rule.text_field)
            groups = range(parquet.num_row_groups)
            starts = [0]
            for group in groups:
                starts.append(starts[-1] + parquet.metadata.row_group(group).num_rows)
            for group in groups[span.start : span.stop]:
                row = starts[group]
                try:
                    rows = _batch_rows(parquet.metadata.row_group(group))
                    for batch in parquet.iter_batches(rows, [group], [rule.text_field], use_threads=False):
                        for value in _as_bytes(batch.column(0)).to_pylist():
                            yield _parquet_document(row, value)
                            row += 1
                except DAMAGE as error:
                    if isinstance(error, OSError) and error.errno is not None:
                        raise  # about the storage
                    yield Fault(row, "damaged", 0, f"row group {group}: {error}")
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise storage.StorageError(
                f"{span.file.url}: cannot read it: {os.strerror(error.errno)}; check the path"
            ) from error
        yield Fault(row, "damaged", 0, str(error))


def _batch_rows(group: pq.RowGroupMetaData) -> int:
    """So many rows that a batch has about _BATCH_BYTES, at the mean size of the group's."""
    fitting = _BATCH_BYTES * int(group.num_rows) // max(1, int(group.total_byte_size))
    return max(1, min(_MAX_BATCH_ROWS, fitting))


def _as_bytes(column: pa.Array) -> pa.Array:
    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return column.cast(pa.large_binary())


def _parquet_document(row: int, value: bytes | None) -> Document | Fault:
    if value is None:
        return Fault(row, "no_text_field", 0, "the text is null")
    if len(value) > MAX_DOCUMENT_BYTES:
        return too_long(row, len(value))
    try:
        return Document(row, value.decode(), len(value))
    except UnicodeDecodeError as error:
        return Fault(row, "invalid_utf8", len(value), str(error))


def check_column(file: InputFile, schema: pa.Schema, text_field: str) -> None:
    """Raises UserError when the Parquet file has no text column of that name."""
    names = ", ".join(f"{field.name} ({field.type})" for field in schema)
    if schema.names.count(text_field) > 1:
        raise UserError(f"{file.url}: has {schema.names.count(text_field)} columns {text_field!r}; rename all but one")
    if text_field not in schema.names:
        raise UserError(f"{file.url}: has no column {text_field!r}; there are: {names}; choose with --text-field")
    kind = schema.field(text_field).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary, pa.types.is_large_binary)
    if not any(test(kind) for test in text):
        raise UserError(
            f"{file.url}: the column {text_field!r} is {kind}, not text; there are: {names}; choose with --text-field"
        )

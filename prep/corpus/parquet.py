"""Row groups of Parquet files -> documents: one column, a document per row."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from prep.corpus.documents import MAX_DOCUMENT_BYTES, Document, Fault, InputFile, Rule, Span, too_long
from shards import storage
from shards.errors import UserError

# What pyarrow raises for a damaged file. An OSError with an error number is about the storage instead.
DAMAGE = (OSError, pa.ArrowException)
_BUFFER_BYTES = 1 << 20
_MAX_BATCH_ROWS = 256
_BATCH_BYTES = 8 << 20
_WORST_BATCH_BYTES = 1 << 30


@contextmanager
def _opened(file: InputFile, stream: BinaryIO) -> Iterator[pq.ParquetFile]:
    """The Parquet file, read in small steps. Raises pyarrow's errors if it is damaged."""
    options: dict[str, Any] = {"pre_buffer": False, "buffer_size": _BUFFER_BYTES, "page_checksum_verification": True}
    place: Any = str(storage.local_path(file.url)) if storage.is_local(file.url) else stream  # its own reading is faster
    with pq.ParquetFile(place, **options) as parquet:
        yield parquet


def split_row_groups(file: InputFile, rule: Rule, unit_bytes: int) -> list[tuple[Span, int]]:
    """The file in runs of row groups of about `unit_bytes`, each with its share of the file's bytes. Reads the footer."""
    try:
        with storage.open_read(file.url) as stream, _opened(file, stream) as parquet:
            sizes = [parquet.metadata.row_group(group).total_byte_size for group in range(parquet.num_row_groups)]
    except DAMAGE:
        return [(Span(file), file.bytes)]  # the task that reads it reports the fault
    scale = file.bytes / max(1, sum(sizes))
    spans = []
    start, gathered = 0, 0.0
    for group, size in enumerate(sizes):
        gathered += size * scale
        if gathered >= unit_bytes or group == len(sizes) - 1:
            spans.append((Span(file, start, group + 1), int(gathered)))
            start, gathered = group + 1, 0.0
    return spans or [(Span(file), file.bytes)]


def check_parquet(stream: BinaryIO, file: InputFile, rule: Rule) -> None:
    """Raises UserError if the file has no text column of the rule's name; a damaged file passes, its reader reports it."""
    try:
        with _opened(file, stream) as parquet:
            _check_column(file, parquet.schema_arrow, rule.text_field)
    except DAMAGE:
        return


def read_parquet(stream: BinaryIO, span: Span, rule: Rule) -> Iterator[Document | Fault]:
    """The documents of a run of row groups, each at its row. After a damaged page, the next row group is read.

    Raises StorageError if the storage fails, UserError for another schema or an encoding that pyarrow does not know.
    """
    row = 0
    try:
        with _opened(span.file, stream) as parquet:
            _check_column(span.file, parquet.schema_arrow, rule.text_field)
            groups = range(parquet.num_row_groups)
            starts = [0]
            for group in groups:
                starts.append(starts[-1] + parquet.metadata.row_group(group).num_rows)
            for group in groups[span.start : span.stop]:
                row = starts[group]
                try:
                    rows = _batch_rows(parquet.metadata.row_group(group), rule.text_field)
                    for batch in parquet.iter_batches(rows, [group], [rule.text_field], use_threads=False):
                        for value in _as_bytes(batch.column(0)):
                            yield _parquet_document(row, value.as_buffer())  # a view: a value may be very long
                            row += 1
                except DAMAGE as error:
                    yield _damage(span.file, row, error, f"row group {group}: ")
    except DAMAGE as error:
        yield _damage(span.file, row, error)


def _damage(file: InputFile, row: int, error: Exception, place: str = "") -> Fault:
    """The fault of damaged content. Raises StorageError or UserError if the content is not damaged, but cannot be read."""
    if isinstance(error, OSError) and error.errno is not None:
        raise storage.StorageError(f"{file.url}: cannot read it: {os.strerror(error.errno)}; check the path") from error
    if isinstance(error, pa.ArrowNotImplementedError):
        raise UserError(f"{file.url}: pyarrow cannot read it: {error}; write it again with another compression or encoding")
    return Fault(row, "damaged", 0, f"{place}{error}", "row")


def _batch_rows(group: pq.RowGroupMetaData, text_field: str) -> int:
    """How many rows make a batch of about _BATCH_BYTES, by the mean size of the group's rows.

    A dictionary may hold one long text for all rows, each of which then is as large as the whole column was.
    """
    fitting = _BATCH_BYTES * int(group.num_rows) // max(1, int(group.total_byte_size))
    for column in map(group.column, range(group.num_columns)):
        if column.path_in_schema == text_field and column.has_dictionary_page:
            fitting = min(fitting, _WORST_BATCH_BYTES // max(1, int(column.total_uncompressed_size)))
    return max(1, min(_MAX_BATCH_ROWS, fitting))


def _as_bytes(column: pa.Array) -> pa.Array:
    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return column.cast(pa.large_binary())


def _parquet_document(row: int, value: pa.Buffer | None) -> Document | Fault:
    if value is None:
        return Fault(row, "no_text_field", 0, "the text is null", "row")
    if len(value) > MAX_DOCUMENT_BYTES:
        return too_long(row, len(value), "row")
    try:
        return Document(row, str(value, "utf8"), len(value))
    except UnicodeDecodeError as error:
        return Fault(row, "invalid_utf8", len(value), str(error), "row")


def _check_column(file: InputFile, schema: pa.Schema, text_field: str) -> None:
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

"""Spans of input files -> documents, one after the other, in bounded memory.

A span of a plain text or of JSON lines is a byte range of the decompressed stream. A document belongs to the span that
holds its anchor: the start of its line or, between blank lines, the start of the blank line before it. So however a file is
cut, each document is read once, and always with the same position.
"""

import gzip
import io
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from prep.inputs import InputFile
from prep.settings import MAX_DOCUMENT_BYTES, Settings
from shards import storage
from shards.errors import UserError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_CHUNK_BYTES = 1 << 20
_BATCH_ROWS = 256
_CONTENT_ERRORS = (EOFError, OSError, zlib.error, zstd.ZstdError, pa.ArrowException, UnicodeDecodeError)


class Document(NamedTuple):
    """A document: its byte offset in the decompressed file (Parquet: its row), its text, and that text's UTF-8 bytes."""

    position: int
    text: str
    num_bytes: int


class Fault(NamedTuple):
    """What stands where a document should: why it cannot be read, and as many bytes of it as are known."""

    position: int
    reason: str
    num_bytes: int
    detail: str = ""


@dataclass(frozen=True)
class Span:
    """A part of a file: bytes [start, stop) of text and JSON lines, row groups [start, stop) of Parquet; None: to the end."""

    file: InputFile
    start: int = 0
    stop: int | None = None


class Rule(NamedTuple):
    """The settings that say what a document is."""

    document: str  # line, blank-line or file
    text_field: str


def rule_of(settings: Settings) -> Rule:
    """The rule that the settings ask for."""
    return Rule(settings.document, settings.text_field)


def read_documents(span: Span, rule: Rule, on_progress: Callable[[int], None] = lambda _: None) -> Iterator[Document | Fault]:
    """The documents of a span in order, and a Fault in place of each that is broken.

    After damage to a compressed stream nothing more of that file comes; after damage to a Parquet page, the next row group.
    `on_progress` gets the number of the file's own bytes read so far. Raises StorageError when the storage fails.
    """
    if span.file.format == "parquet":
        yield from _read_parquet(span, rule)
        return
    position = told = span.start
    with storage.open_read(span.file.url) as file:
        try:
            compression = span.file.compression if span.file.bytes else ""  # an empty file is empty in any
            for item in _text_documents(_decompressed(file, compression), span, rule):
                position = item.position + item.num_bytes
                yield item
                if position - told >= _CHUNK_BYTES:
                    told = position
                    on_progress(file.tell() - span.start)
        except _CONTENT_ERRORS as error:
            yield Fault(position, "damaged", 0, f"{type(error).__name__}: {error}")


def _text_documents(file: BinaryIO, span: Span, rule: Rule) -> Iterator[Document | Fault]:
    if span.file.format == "jsonl":
        for position, raw in _lines(file, span.start, span.stop):
            yield _json_document(position, raw, rule.text_field) if isinstance(raw, bytes) else raw
        return
    cut = {"line": _lines, "blank-line": _paragraphs, "file": _whole}[rule.document]
    for position, raw in cut(file, span.start, span.stop):
        item = _text_document(position, raw) if isinstance(raw, bytes) else raw
        if rule.document == "file" or isinstance(item, Fault) or item.text.strip():
            yield item


def _decompressed(file: BinaryIO, compression: str) -> BinaryIO:
    """Streams of several gzip members or zstd frames are read to their end; a truncated one raises EOFError."""
    if not compression:
        return file
    return io.BufferedReader(_Eager(gzip.GzipFile(fileobj=file) if compression == "gz" else zstd.ZstdFile(file)), _CHUNK_BYTES)


class _Eager(io.RawIOBase):
    """Hands on what a decompressor has so far, so that nothing before a damaged place is lost with it."""

    def __init__(self, plain: Any) -> None:
        self._plain = plain

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._plain.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _text_document(position: int, raw: bytes) -> Document | Fault:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return Fault(position, "invalid_utf8", len(raw), f"byte {error.object[error.start]:#04x} at {position + error.start}")
    return Document(position, text.removeprefix("\ufeff") if position == 0 else text, len(raw))


def _json_document(position: int, raw: bytes, text_field: str) -> Document | Fault:
    try:
        record = json.loads(raw.removeprefix(b"\xef\xbb\xbf") if position == 0 else raw, parse_int=float)  # of any length
    except UnicodeDecodeError as error:
        return Fault(position, "invalid_utf8", len(raw), f"byte {error.object[error.start]:#04x}")
    except (ValueError, RecursionError) as error:
        return Fault(position, "broken_json", len(raw), str(error))
    if not isinstance(record, dict):
        return Fault(position, "broken_json", len(raw), f"a {type(record).__name__}, not an object of fields")
    text = record.get(text_field)
    if not isinstance(text, str):
        found = f"it is {json.dumps(text)[:40]}" if text_field in record else f"there are: {', '.join(record)[:200] or 'none'}"
        return Fault(position, "no_text_field", len(raw), f"no text in the field {text_field!r}; {found}")
    try:
        return Document(position, text, len(text.encode()))
    except UnicodeEncodeError:
        return Fault(position, "invalid_utf8", len(raw), "an unpaired surrogate")


Piece = tuple[int, bytes | Fault]


def _too_long(position: int, num_bytes: int) -> Piece:
    return position, Fault(position, "too_long", num_bytes, f"over {MAX_DOCUMENT_BYTES} bytes")


def _line(file: BinaryIO) -> tuple[bytes, int]:
    """The next line, and its length, which is larger when only the beginning of an overlong line was kept."""
    line = file.readline(MAX_DOCUMENT_BYTES + 2)
    length = len(line)
    if length > MAX_DOCUMENT_BYTES and not line.endswith(b"\n"):
        while rest := file.readline(_CHUNK_BYTES):
            length += len(rest)
            if rest.endswith(b"\n"):
                break
    return line, length


def _seek_line(file: BinaryIO, start: int) -> int:
    """Moves to the first line that starts at `start` or after; returns where that is."""
    if start == 0:
        return 0
    file.seek(start - 1)
    return start - 1 + _line(file)[1]


def _lines(file: BinaryIO, start: int, stop: int | None) -> Iterator[Piece]:
    position = _seek_line(file, start)
    while stop is None or position < stop:
        line, length = _line(file)
        if not length:
            return
        content = line.rstrip(b"\r\n")
        if length > MAX_DOCUMENT_BYTES + 2 or len(content) > MAX_DOCUMENT_BYTES:
            yield _too_long(position, length)
        elif content and not content.isspace():
            yield position, content
        position += length


def _paragraphs(file: BinaryIO, start: int, stop: int | None) -> Iterator[Piece]:
    position = _seek_line(file, start)
    ours = start == 0  # whether a document that begins here has its anchor in this span
    lines: list[bytes] = []
    first, size = 0, 0
    while True:
        line, length = _line(file)
        if line.strip() and ours:
            first = first if size else position
            size += length
            if size <= MAX_DOCUMENT_BYTES + 2:
                lines.append(line)
        elif not line.strip():
            if size:
                content = b"".join(lines).rstrip(b"\r\n") if size <= MAX_DOCUMENT_BYTES + 2 else b""
                fits = content and len(content) <= MAX_DOCUMENT_BYTES
                yield (first, content) if fits else _too_long(first, size)
            if not length or (stop is not None and position >= stop):
                return
            lines, size, ours = [], 0, True
        position += length


def _whole(file: BinaryIO, start: int, stop: int | None) -> Iterator[Piece]:
    data = file.read(MAX_DOCUMENT_BYTES + 1)
    size = len(data)
    while chunk := file.read(_CHUNK_BYTES) if size > MAX_DOCUMENT_BYTES else b"":
        size += len(chunk)
    yield (0, data) if size <= MAX_DOCUMENT_BYTES else _too_long(0, size)


@contextmanager
def open_parquet(file: InputFile) -> Iterator[pq.ParquetFile]:
    """The Parquet file, read in small steps. Raises pyarrow's errors when it is damaged."""
    options: dict[str, Any] = {"pre_buffer": False, "buffer_size": _CHUNK_BYTES, "page_checksum_verification": True}
    if storage.is_local(file.url):
        with pq.ParquetFile(str(storage.local_path(file.url)), **options) as parquet:
            yield parquet
    else:
        with storage.open_read(file.url) as stream, pq.ParquetFile(stream, **options) as parquet:
            yield parquet


def _read_parquet(span: Span, rule: Rule) -> Iterator[Document | Fault]:
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
                    for batch in parquet.iter_batches(_BATCH_ROWS, [group], [rule.text_field], use_threads=False):
                        for value in _as_bytes(batch.column(0)).to_pylist():
                            yield _parquet_document(row, value)
                            row += 1
                except _CONTENT_ERRORS as error:
                    yield Fault(row, "damaged", 0, f"row group {group}: {error}")
    except _CONTENT_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise storage.StorageError(
                f"{span.file.url}: cannot read it: {os.strerror(error.errno)}; check the path"
            ) from error
        yield Fault(row, "damaged", 0, str(error))


def _as_bytes(column: pa.Array) -> pa.Array:
    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return column.cast(pa.large_binary())


def _parquet_document(row: int, value: bytes | None) -> Document | Fault:
    if value is None:
        return Fault(row, "no_text_field", 0, "the text is null")
    if len(value) > MAX_DOCUMENT_BYTES:
        return _too_long(row, len(value))[1]  # type: ignore[return-value]  # the Fault of the pair
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

"""Spans of input files -> documents, one after the other, in bounded memory."""

import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from prep.documents import Document, Fault, Rule, Span
from prep.pieces import cut_lines, cut_paragraphs, cut_whole
from prep.tables import read_parquet
from shards import storage

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_CHUNK_BYTES = 1 << 20
_DAMAGE = (EOFError, OSError, zlib.error, zstd.ZstdError)
"""What decompressors raise; storage raises StorageError, which is none of these."""


def read_documents(span: Span, rule: Rule, on_progress: Callable[[int], None] = lambda _: None) -> Iterator[Document | Fault]:
    """The documents of a span in order, and a Fault in place of each that is broken.

    After damage to a compressed stream nothing more of that file comes; after damage to a Parquet page, the next row group.
    `on_progress` gets the number of the file's own bytes read so far. Raises StorageError when the storage fails.
    """
    if span.file.format == "parquet":
        yield from read_parquet(span, rule)
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
        except _DAMAGE as error:
            yield Fault(position, "damaged", 0, f"{type(error).__name__}: {error}")


def _text_documents(file: BinaryIO, span: Span, rule: Rule) -> Iterator[Document | Fault]:
    if span.file.format == "jsonl":
        for position, raw in cut_lines(file, span.start, span.stop):
            yield _json_document(position, raw, rule.text_field) if isinstance(raw, bytes) else raw
        return
    cut = {"line": cut_lines, "blank-line": cut_paragraphs, "file": cut_whole}[rule.document]
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
        found = f"it is a {type(text).__name__}" if text_field in record else f"there are: {', '.join(record)[:200] or 'none'}"
        return Fault(position, "no_text_field", len(raw), f"no text in the field {text_field!r}; {found}")
    try:
        return Document(position, text, len(text.encode()))
    except UnicodeEncodeError:
        return Fault(position, "invalid_utf8", len(raw), "an unpaired surrogate")

"""Spans of input files -> documents, one after the other, in bounded memory."""

import json
from collections.abc import Callable, Iterator
from typing import BinaryIO

from prep.corpus.compression import CHUNK_BYTES, decompressed
from prep.corpus.documents import Document, Fault, Rule, Span
from prep.corpus.files import is_of_another_format
from prep.corpus.parquet import read_parquet
from prep.corpus.tar import DAMAGE, read_samples, text_of
from prep.corpus.text import cut_lines, cut_paragraphs, cut_whole
from prep.corpus.warc import read_warc
from shards import storage


def read_documents(span: Span, rule: Rule, on_progress: Callable[[int], None] = lambda _: None) -> Iterator[Document | Fault]:
    """The documents of a span in order, and a Fault in place of each that is broken.

    After damage to a compressed stream, a tar or a WARC nothing more of that file comes; after damage to a Parquet page, the
    next row group. `on_progress` gets the number of the file's own bytes read so far. Raises StorageError when the storage
    fails.
    """
    if span.file.format == "parquet":
        yield from read_parquet(span, rule)
        return
    position = told = span.start
    with storage.open_read(span.file.url) as file:
        try:
            compression = span.file.compression if span.file.bytes else ""  # an empty file is empty in any
            for item in _documents(decompressed(file, compression), span, rule):
                position = item.position + item.num_bytes
                yield item
                if position - told >= CHUNK_BYTES:
                    told = position
                    on_progress(file.tell() - span.start)
        except DAMAGE as error:
            yield Fault(position, "damaged", 0, f"{type(error).__name__}: {error}")


def _documents(file: BinaryIO, span: Span, rule: Rule) -> Iterator[Document | Fault]:
    if not span.file.bytes:
        return
    if span.file.format == "warc":
        yield from read_warc(file)
    elif span.file.format == "tar":
        yield from _tar_documents(file, rule)
    elif span.file.format == "jsonl":
        for position, raw in cut_lines(file, span.start, span.stop):
            yield _json_document(position, raw, rule.text_field) if isinstance(raw, bytes) else raw
    else:
        yield from _text_documents(file, span, rule)


def _text_documents(file: BinaryIO, span: Span, rule: Rule) -> Iterator[Document | Fault]:
    cut = {"line": cut_lines, "blank-line": cut_paragraphs, "file": cut_whole}[rule.document]
    for position, raw in cut(file, span.start, span.stop):
        item = _text_document(position, raw) if isinstance(raw, bytes) else raw
        if rule.document == "file" or isinstance(item, Fault) or item.text.strip():
            yield item


def _tar_documents(file: BinaryIO, rule: Rule) -> Iterator[Document | Fault]:
    texts, records = frozenset(("txt", rule.text_field.lower())), frozenset(("json",))
    for member in read_samples(file, texts, records):
        if member.ending in records and member.content is not None:
            yield _json_document(member.position, member.content, rule.text_field)
        elif is_of_another_format(member.name) and member.ending not in texts:
            yield Fault(member.position, "not_text", member.size, f"member {member.name}: unpack it, it is no plain text")
        else:
            yield text_of(member)


def _text_document(position: int, raw: bytes) -> Document | Fault:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return Fault(position, "invalid_utf8", len(raw), f"byte {error.object[error.start]:#04x} at {position + error.start}")
    return Document(position, text.removeprefix("\ufeff") if position == 0 else text, len(raw))


def _json_document(position: int, raw: bytes, text_field: str) -> Document | Fault:
    try:
        record = json.loads(raw.removeprefix(b"\xef\xbb\xbf"), parse_int=float)  # of any length
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

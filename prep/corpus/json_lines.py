"""JSON lines -> documents: one field of each object."""

import json
from collections.abc import Iterator
from itertools import chain, islice
from typing import BinaryIO

from prep.corpus.documents import Document, Fault, InputFile, Rule, Span
from prep.corpus.text import cut_lines
from shards.errors import UserError

_CHECKED_RECORDS = 100


def check_json_lines(file: BinaryIO, source: InputFile, rule: Rule) -> None:
    """Raises UserError if none of the first records has the text field."""
    first = list(islice(read_json_lines(file, Span(source), rule), _CHECKED_RECORDS))
    lacking = [item for item in first if isinstance(item, Fault) and item.reason == "no_text_field"]
    if lacking and len(lacking) == len(first):
        raise UserError(f"{source.url}: at byte {lacking[0].position}: {lacking[0].detail}; choose with --text-field")


def read_json_lines(file: BinaryIO, span: Span, rule: Rule) -> Iterator[Document | Fault]:
    """The documents of a span, each at the offset of its line."""
    for position, raw in chain.from_iterable(cut_lines(file, span.start, span.stop)):
        yield json_document(position, raw, rule.text_field) if isinstance(raw, bytes) else raw


def json_document(position: int, raw: bytes, text_field: str) -> Document | Fault:
    """The text field of one JSON object as a document."""
    try:
        record = json.loads(raw.removeprefix(b"\xef\xbb\xbf"), parse_int=float)  # int() refuses long numbers
    except UnicodeDecodeError as error:
        return Fault(position, "invalid_utf8", len(raw), f"byte {error.object[error.start]:#04x}")
    except (ValueError, RecursionError) as error:
        return Fault(position, "broken_json", len(raw), str(error))
    if not isinstance(record, dict):
        return Fault(position, "broken_json", len(raw), f"a {type(record).__name__}, not an object of fields")
    text = record.get(text_field)
    if not isinstance(text, str):
        fields = f"it is a {type(text).__name__}" if text_field in record else f"there are: {', '.join(record)[:200] or 'none'}"
        return Fault(position, "no_text_field", len(raw), f"no text in the field {text_field!r}; {fields}")
    try:
        return Document(position, text, len(text.encode()))
    except UnicodeEncodeError:
        return Fault(position, "invalid_utf8", len(raw), "an unpaired surrogate")

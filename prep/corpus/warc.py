"""Records of WARC and WET files -> documents: one a page."""

import codecs
import re
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

from prep.corpus.documents import MAX_DOCUMENT_BYTES, Document, Fault, too_long

EXTRACTOR = f"resiliparse {version('resiliparse')}, main content of decoded pages"
_WANTED = WarcRecordType.conversion | WarcRecordType.response | WarcRecordType.resource
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})[^\r\n]*\r\n")
_GZIP = b"\x1f\x8b"
_HTML = ("text/html", "application/xhtml+xml")


def read_warc(file: BinaryIO) -> Iterator[Document | Fault]:
    """The documents of a WARC stream that is not compressed any more, each at the offset of its record.

    Conversions (WET), responses and resources of plain text are documents as they are; of HTML pages the main content is
    taken. Records of other kinds are none; pages of other media types or without success are left out and counted. A record
    that is cut off is a fault, and the last item. Raises OSError at what is no WARC header, and what the stream raises.
    """
    tape: Any = _Tape(file)
    for record in ArchiveIterator(tape, stream_detect=False, parse_http=True):
        position = int(record.stream_pos)
        if record.headers.get("Content-Length") is None:
            yield Fault(position, "damaged", 0, "the header of the record is cut off")
            return
        length = int(record.content_length)
        if not record.record_type & _WANTED:
            continue
        if record.is_http and (record.http_headers.status_code or 200) != 200:
            yield Fault(position, "not_wanted", length)
            continue
        if length > MAX_DOCUMENT_BYTES:
            yield too_long(position, length)
            continue
        body = bytes(record.reader.read())
        if len(body) < length:
            yield Fault(position, "damaged", len(body), f"the record ends after {len(body)} of its {length} bytes")
            return
        yield _document(position, record, body)


class _Tape:
    """A stream to read on, which is all that the iterator asks for."""

    def __init__(self, file: Any) -> None:
        self._file, self._at = file, 0

    def tell(self) -> int:
        """Bytes read."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """The next bytes, as many as there are without a further step: nothing before a damaged place is lost."""
        data: bytes = self._file.read1(size)
        self._at += len(data)
        return data


def _document(position: int, record: WarcRecord, body: bytes) -> Document | Fault:
    headers: Any = record.http_headers if record.is_http else record.headers
    kind, _, parameters = (headers.get("Content-Type") or "").lower().partition(";")
    kind = kind.strip()
    if kind != "text/plain" and kind not in _HTML:
        return Fault(position, "not_wanted", len(body))
    try:
        body = _decoded(body, headers) if record.is_http else body
    except (EOFError, OSError, ValueError, zlib.error) as error:
        return Fault(position, "broken_http", len(body), f"its encoding cannot be undone: {error}")
    if len(body) > MAX_DOCUMENT_BYTES:
        return too_long(position, len(body))
    charset = _known(parameters.partition("charset=")[2].partition(";")[0].strip(" \"'"))
    if kind in _HTML:
        charset = charset or _known(detect_encoding(body, from_html_meta=True) or "") or "utf-8"
        text = extract_plain_text(bytes_to_str(body, charset, fallback_encodings=("utf-8", "windows-1252")), main_content=True)
        return Document(position, text, len(text.encode()))
    try:
        text = body.decode(charset or "utf-8")
    except UnicodeDecodeError as error:
        return Fault(position, "invalid_utf8", len(body), f"byte {error.object[error.start]:#04x} of the record's text")
    return Document(position, text, len(text.encode()))


def _known(charset: str) -> str:
    """The charset, if Python knows a text encoding of that name; else nothing."""
    try:
        return charset if codecs.lookup(charset)._is_text_encoding else ""
    except (LookupError, ValueError):
        return ""


def _decoded(body: bytes, headers: Any) -> bytes:
    """A body as it came over the wire, without its transfer and content encoding. Raises ValueError for an unknown one."""
    if "chunked" in (headers.get("Transfer-Encoding") or "").lower() and _CHUNK.match(body):
        parts, at = [], 0
        while found := _CHUNK.match(body, at):
            size = int(found[1], 16)
            parts.append(body[found.end() : found.end() + size])
            at = found.end() + size + 2
            if not size:
                break
        body = b"".join(parts)
    coding = (headers.get("Content-Encoding") or "identity").lower().strip()
    if coding in ("gzip", "x-gzip") and not body.startswith(_GZIP):
        return body  # crawlers that decode what they store may leave the header
    if coding in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(47).decompress(body, MAX_DOCUMENT_BYTES + 1)
    if coding != "identity":
        raise ValueError(f"{coding} is not known here")
    return body

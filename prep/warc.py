"""Records of WARC and WET files -> documents: one a page."""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

from prep.documents import MAX_DOCUMENT_BYTES, Document, Fault, too_long

EXTRACTOR = f"resiliparse {version('resiliparse')}, main content"
_WANTED = WarcRecordType.conversion | WarcRecordType.response | WarcRecordType.resource
_HTML = ("text/html", "application/xhtml+xml")


def read_warc(file: BinaryIO) -> Iterator[Document | Fault]:
    """The documents of a WARC stream that is not compressed any more, each at the offset of its record.

    Conversions (WET), responses and resources of plain text are documents as they are; of HTML pages the main content is
    taken. Records of other kinds are none; pages of other media types are left out and counted. A record that is cut off
    is a fault, and the last item. Raises OSError at what is no WARC header, and what the stream raises.
    """
    tape: Any = _Tape(file)
    for record in ArchiveIterator(tape, stream_detect=False, parse_http=True):
        position = int(record.stream_pos)
        if record.headers.get("Content-Length") is None:
            yield Fault(position, "damaged", 0, "the header of the record is cut off")
            return
        length = int(record.content_length)
        if not record.record_type & _WANTED or (record.is_http and (record.http_headers.status_code or 200) != 200):
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
    if kind.strip() in _HTML:
        charset = parameters.partition("charset=")[2].strip(" \"'") or detect_encoding(body, from_html_meta=True) or "utf-8"
        text = extract_plain_text(bytes_to_str(body, charset, fallback_encodings=("utf-8", "windows-1252")), main_content=True)
        return Document(position, text, len(text.encode()))
    if kind.strip() != "text/plain":
        return Fault(position, "not_wanted", len(body), f"a page of type {kind.strip() or 'unknown'}, neither text nor HTML")
    try:
        return Document(position, body.decode(), len(body))
    except UnicodeDecodeError as error:
        return Fault(position, "invalid_utf8", len(body), f"byte {error.object[error.start]:#04x} of the record's text")

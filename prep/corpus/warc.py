"""Records of WARC and WET files (ISO 28500) -> documents: one per page."""

import re
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from io import BufferedReader
from typing import Any, BinaryIO

from prep.corpus.compression import CHUNK_BYTES, DAMAGED_STREAM, GzipMembers
from prep.corpus.documents import MAX_DOCUMENT_BYTES, Document, Fault, InputFile, Rule, Span, too_long
from shards.errors import UserError

_PACKAGES = ("resiliparse", "webencodings", "brotli")  # of the extra `warc`
_VERSION = re.compile(rb"WARC/\d+\.\d+\r?\n?")
_WITH_PAGES = ("conversion", "response", "resource")
_MAX_LINE_BYTES = 1 << 16
_MAX_HEAD_BYTES = 1 << 20
_BLANK = (b"\r\n", b"\n", b"\r")


def extractor_version() -> str:
    """What takes the text out of pages. It is part of the token store's key for corpora with WARC files."""
    try:
        return f"resiliparse {version('resiliparse')}, main content of decoded pages"
    except PackageNotFoundError:
        return "none"


def check_warc(file: BinaryIO, source: InputFile, rule: Rule) -> None:
    """Raises UserError if the packages that read pages are not installed."""
    for name in _PACKAGES:
        try:
            import_module(name)
        except ImportError as error:
            raise UserError(
                f"{source.url}: a WARC file needs the package {name}; install the extra: pip install 'bert-shards[warc]'"
            ) from error


def read_warc(file: BinaryIO, span: Span, rule: Rule) -> Iterator[Document | Fault]:
    """The documents of a WARC stream, each at the offset of its record.

    Conversions (WET), responses and resources of plain text are documents as they are; of HTML pages the main content is
    taken. Records of other kinds are none; pages of other media types or without success are left out and counted.
    A damaged record is a fault, and reading resumes at the next line that begins a record; in a gzip file with a member per
    record, at the next member. Raises one of DAMAGED_STREAM at damage to the compression from which it cannot resume.
    """
    check_warc(file, span.file, rule)
    raw: Any = getattr(file, "raw", None)
    members = raw if isinstance(raw, GzipMembers) else None
    if members is None:
        yield from _records(_Tape(file))
        return
    members.stops = True
    tape = _Tape(file)
    more = True
    while more:
        try:
            yield from _records(tape)
            more = members.next_member()
        except DAMAGED_STREAM as error:
            if not members.find_member(b"WARC/"):
                raise
            yield Fault(tape.position, "damaged", 0, f"{type(error).__name__}: {error}")
            tape = _Tape(BufferedReader(members, CHUNK_BYTES), members.num_bytes)


class _Tape:
    """A stream to read on, and the position in it."""

    def __init__(self, file: Any, position: int = 0) -> None:
        self._file, self.position = file, position

    def line(self) -> bytes:
        """The next line; of an overlong one a part."""
        line: bytes = self._file.readline(_MAX_LINE_BYTES)
        self.position += len(line)
        return line

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer at the end of the stream."""
        data: bytes = self._file.read(size)
        self.position += len(data)
        return data

    def skip(self, size: int) -> int:
        """Passes over `size` bytes; returns how many there were."""
        left = size
        while left and (data := self.read(min(left, CHUNK_BYTES))):
            left -= len(data)
        return size - left

    def next_line(self) -> tuple[int, bytes]:
        """The next line that is not blank, and its position; an empty one at the end."""
        while True:
            position, line = self.position, self.line()
            if line not in _BLANK:
                return position, line

    def next_record(self) -> tuple[int, bytes]:
        """The next line that begins a record, and its position; an empty one at the end."""
        whole = True  # whether the last line was not torn by its length
        while True:
            position, line = self.position, self.line()
            if not line or (whole and _VERSION.fullmatch(line)):
                return position, line
            whole = line.endswith(b"\n")


def _records(tape: _Tape) -> Iterator[Document | Fault]:
    position, line = tape.next_line()
    if line and not _VERSION.fullmatch(line):
        yield Fault(position, "damaged", 0, "no WARC record begins here")
        position, line = tape.next_record()
    while line:
        start = position
        item = _record(tape, start)
        try:
            position, line = tape.next_line()
        except DAMAGED_STREAM:
            if item is not None:
                yield item
            raise
        if line and not _VERSION.fullmatch(line):
            length = tape.position - start
            item = Fault(start, "damaged", length, "more follows after the bytes that the Content-Length of the record counts")
            position, line = tape.next_record()
        if item is not None:
            yield item


def _record(tape: _Tape, position: int) -> Document | Fault | None:
    """The record whose first line was read, which begins at `position`; None for one that holds no page."""
    from prep.corpus.http import parse_headers
    from prep.corpus.pages import page_of

    lines = []
    while (line := tape.line()) not in _BLANK:
        if not line or tape.position - position > _MAX_HEAD_BYTES:
            return Fault(position, "damaged", 0, "the header of the record is cut off")
        lines.append(line)
    headers = parse_headers(lines)
    content_length = headers.get("content-length", [""])[0]
    if not content_length.isdecimal():
        return Fault(position, "damaged", 0, f"the Content-Length of the record is {content_length!r}, not a number")
    length = int(content_length)
    has_page = headers.get("warc-type", [""])[0].lower() in _WITH_PAGES
    if not has_page or length > MAX_DOCUMENT_BYTES + _MAX_HEAD_BYTES:
        num_read, content = tape.skip(length), b""
    else:
        content = tape.read(length)
        num_read = len(content)
    if num_read < length:
        return Fault(position, "damaged", num_read, f"the record ends after {num_read} of its {length} bytes")
    if not has_page:
        return None
    return page_of(position, content, headers) if content or not length else too_long(position, length)

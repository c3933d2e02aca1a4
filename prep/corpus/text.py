"""A stream of bytes -> the pieces of it that are documents.

A piece belongs to the range [start, stop) that holds its anchor: the start of its line or, between blank lines, the start of
the blank line before it. So however a file is cut into ranges, each document is read once, always with the same position.
"""

from collections.abc import Iterator
from typing import BinaryIO

from prep.corpus import documents
from prep.corpus.documents import Fault, too_long

_CHUNK_BYTES = 1 << 20
Piece = tuple[int, bytes | Fault]
"""Where a document begins in the stream, and its bytes."""


def _line(file: BinaryIO) -> tuple[bytes, int]:
    """The next line, and its length, which is larger when only the beginning of an overlong line was kept."""
    line = file.readline(documents.MAX_DOCUMENT_BYTES + 2)
    length = len(line)
    if length > documents.MAX_DOCUMENT_BYTES and not line.endswith(b"\n"):
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


def cut_lines(file: BinaryIO, start: int, stop: int | None) -> Iterator[Piece]:
    """A piece a line; blank ones are none."""
    position = _seek_line(file, start)
    while stop is None or position < stop:
        line, length = _line(file)
        if not length:
            return
        content = line.rstrip(b"\r\n")
        if length > documents.MAX_DOCUMENT_BYTES + 2 or len(content) > documents.MAX_DOCUMENT_BYTES:
            yield position, too_long(position, length)
        elif content and not content.isspace():
            yield position, content
        position += length


def cut_paragraphs(file: BinaryIO, start: int, stop: int | None) -> Iterator[Piece]:
    """A piece between blank lines."""
    position = _seek_line(file, start)
    ours = start == 0  # whether a document that begins here has its anchor in this span
    lines: list[bytes] = []
    first, size = 0, 0
    while True:
        line, length = _line(file)
        if not ours and stop is not None and position >= stop:
            return  # nothing began here, and what is still to come began before or begins behind
        if line.strip() and ours:
            first = first if size else position
            size += length
            if size <= documents.MAX_DOCUMENT_BYTES + 2:
                lines.append(line)
        elif not line.strip():
            if size:
                content = b"".join(lines).rstrip(b"\r\n") if size <= documents.MAX_DOCUMENT_BYTES + 2 else b""
                fits = content and len(content) <= documents.MAX_DOCUMENT_BYTES
                yield (first, content) if fits else (first, too_long(first, size))
            if not length or (stop is not None and position >= stop):
                return
            lines, size, ours = [], 0, True
        position += length


def cut_whole(file: BinaryIO, start: int, stop: int | None) -> Iterator[Piece]:
    """The file as one piece, which is never cut into ranges."""
    data = file.read(documents.MAX_DOCUMENT_BYTES + 1)
    size = len(data)
    while chunk := file.read(_CHUNK_BYTES) if size > documents.MAX_DOCUMENT_BYTES else b"":
        size += len(chunk)
    yield (0, data) if size <= documents.MAX_DOCUMENT_BYTES else (0, too_long(0, size))

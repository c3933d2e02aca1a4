"""A stream of plain text -> the pieces of it that are documents.

A piece belongs to the range [start, stop) that holds its anchor: the start of its line or, between blank lines, the start of
the blank line before it. So however a file is cut into ranges, each document is read once, always with the same position.
Lines end with LF, CR LF or CR alone.
"""

import re
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from typing import Any, BinaryIO

from prep.corpus import documents
from prep.corpus.documents import Document, Fault, InputFile, Rule, Span, Texts, too_long

_CHUNK_BYTES = 1 << 20
# Documents, or faults, that are there at once: a chunk may have hundreds of thousands, of a letter each.
_MOST_AT_ONCE = 1 << 14
_LONE_CR = re.compile(r"\r(?!\n)")  # a line end; whatever splits the text into sentences looks for LF
_LINE_ENDS = (b"\n", b"\r")
_UNSURE_LINE = re.compile(rb"\n(?=[^!-\x7f])")  # a line begins that may be blank
_LEAST_RUN = 2000  # bytes
_END = sys.maxsize  # of a range that goes to the end of the stream
Piece = tuple[int, bytes | Fault]  # where a document begins in the stream, and its bytes


def split_bytes(file: InputFile, rule: Rule, unit_bytes: int) -> list[tuple[Span, int]]:
    """A file of lines in ranges of at most `unit_bytes`, each with its bytes; a compressed one cannot be cut."""
    if file.compression:
        return [(Span(file), file.bytes)]
    count = -(-file.bytes // unit_bytes)
    edges = [file.bytes * i // count for i in range(count + 1)]
    return [(Span(file, edges[i], edges[i + 1] if i + 1 < count else None), edges[i + 1] - edges[i]) for i in range(count)]


def split_text(file: InputFile, rule: Rule, unit_bytes: int) -> list[tuple[Span, int]]:
    """The same for plain text, which stays whole where the file is the document."""
    return [(Span(file), file.bytes)] if rule.document == "file" else split_bytes(file, rule, unit_bytes)


def read_text(file: BinaryIO, span: Span, rule: Rule) -> Iterator[Texts]:
    """The documents of a span of plain text, many at once; blank ones are none, unless the file is the document."""
    cut = {"line": cut_lines, "blank-line": cut_paragraphs, "file": cut_whole}[rule.document]
    for pieces in cut(file, span.start, span.stop):
        for first in range(0, len(pieces), _MOST_AT_ONCE):
            some = pieces[first : first + _MOST_AT_ONCE]
            yield _plain_texts(some) or Texts.of(_documents(some, rule))


def _plain_texts(pieces: list[Piece]) -> Texts | None:
    """The documents, quickly, if none of them is a special case to `_documents`."""
    contents = [raw for _, raw in pieces if isinstance(raw, bytes)]
    everything = b"".join(contents)
    if len(contents) < len(pieces) or pieces[0][0] == 0 or b"\0" in everything or b"\r" in everything:
        return None
    try:
        texts = [content.decode() for content in contents]
    except UnicodeDecodeError:
        return None
    if any(map(str.isspace, texts)):
        return None
    return Texts([position for position, _ in pieces], texts, list(map(len, contents)), [])


def _documents(pieces: list[Piece], rule: Rule) -> Iterator[Document | Fault]:
    for position, raw in pieces:
        item = _text_document(position, raw, rule.is_exact) if isinstance(raw, bytes) else raw
        if rule.document == "file" or isinstance(item, Fault) or (item.text and not item.text.isspace()):
            yield item


def _text_document(position: int, raw: bytes, is_exact: bool) -> Document | Fault:
    if b"\0" in raw:
        return Fault(position, "not_text", len(raw), f"a NUL byte at {position + raw.index(0)}")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return Fault(position, "invalid_utf8", len(raw), f"byte {error.object[error.start]:#04x} at {position + error.start}")
    text = text.removeprefix("\ufeff") if position == 0 else text
    text = _LONE_CR.sub("\n", text) if "\r" in text and not is_exact else text
    return Document(position, text, len(raw))


def _lines(chunk: bytes) -> list[bytes]:
    """The lines with their ends; the last may be a part of one."""
    return chunk.splitlines(keepends=True)  # of bytes: LF, CR LF and CR, nothing else


def _lines_or_runs(chunk: bytes) -> list[bytes]:
    """The same, but neighbours that surely are not blank, as their first bytes show, stay together where that is quicker.

    The first line and the last come alone.
    """
    unsure = [] if b"\r" in chunk else [match.end() for match in _UNSURE_LINE.finditer(chunk)]
    if b"\r" in chunk or len(unsure) > len(chunk) // _LEAST_RUN:
        return _lines(chunk)
    edges = {0, chunk.find(b"\n") + 1, chunk.rfind(b"\n") + 1, len(chunk)}
    edges.update(unsure, (chunk.find(b"\n", start) + 1 or len(chunk) for start in unsure))
    return [chunk[first:end] for first, end in pairwise(sorted(edges))]


def _chunks(file: Any, split: Callable[[bytes], list[bytes]]) -> Iterator[list[bytes]]:
    """The stream in lists of what `split` makes of it; the last of a list may be a part of a line, and only that."""
    while chunk := file.read1(_CHUNK_BYTES):
        if chunk.endswith(b"\r") and file.peek(1)[:1] == b"\n":
            chunk += file.read(1)  # one line end, not two
        yield split(chunk)


def _line_runs(
    file: BinaryIO, start: int, stop: int, split: Callable[[bytes], list[bytes]] = _lines
) -> Iterator[tuple[int, list[bytes], int]]:
    """(position, lines with their ends, length) of the lines that begin at `start` or after it, many at once.

    Of an overlong line only the beginning is kept. It comes alone, and the length is that of the whole line. The line that
    `start` is in began before: it is passed over, at most to `stop`, so that one huge line costs each of its ranges no more
    than the range.
    """
    position = max(0, start - 1)  # one byte earlier, to see whether a line ends just before `start`
    passing = start > 0
    if passing:
        file.seek(position)
    parts: list[bytes] = []  # of a line that began in an earlier chunk
    length = kept = 0
    for lines in _chunks(file, split):
        part = lines[0]
        length += len(part)
        if not passing and kept <= documents.MAX_DOCUMENT_BYTES + 2:
            parts.append(part)
            kept += len(part)
        if not part.endswith(_LINE_ENDS):
            if passing and position + length >= stop:
                return
            continue
        if not passing:
            yield position, [b"".join(parts)], length
        position += length
        passing, parts, length, kept = False, [], 0, 0
        rest = lines.pop() if len(lines) > 1 and not lines[-1].endswith(_LINE_ENDS) else b""
        if len(lines) > 1:
            length = sum(map(len, lines)) - len(part)
            yield position, lines[1:], length
            position += length
        parts, length, kept = [rest], len(rest), len(rest)
    if length and not passing:
        yield position, [b"".join(parts)], length


def cut_lines(file: BinaryIO, start: int, stop: int | None) -> Iterator[list[Piece]]:
    """A piece per line, many at once; blank lines are none."""
    longest, stop = documents.MAX_DOCUMENT_BYTES, _END if stop is None else stop
    for position, lines, length in _line_runs(file, start, stop):
        starts = list(accumulate(map(len, lines), initial=position))
        count = bisect_left(starts, stop, hi=len(lines))
        yield [
            (begin, content if len(content) <= longest else too_long(begin, length if len(lines) == 1 else len(line)))
            for begin, line in zip(starts, lines[:count], strict=False)
            if (content := line.rstrip(b"\r\n")) and (len(content) > longest or not content.isspace())
        ]
        if position + length >= stop:
            return


def cut_paragraphs(file: BinaryIO, start: int, stop: int | None) -> Iterator[list[Piece]]:
    """A piece between blank lines, many at once."""
    anchored = start == 0  # whether a document that begins here has its anchor in this span
    longest, stop = documents.MAX_DOCUMENT_BYTES + 2, _END if stop is None else stop
    kept: list[bytes] = []
    first, size = 0, 0
    for position, lines, length in _line_runs(file, start, stop, _lines_or_runs):
        pieces = []
        for line in lines:
            past = position >= stop
            if past and not anchored:
                break  # no anchor in this span
            if 0x20 < line[0] < 0x80 or not _is_blank(line):  # the first is for speed
                if anchored:
                    first = first if size else position
                    size += length if len(lines) == 1 else len(line)
                    if size <= longest:
                        kept.append(line)
            else:
                if size:
                    pieces.append(_paragraph(first, size, kept))
                kept, size, anchored = [], 0, not past
            position += len(line)
        yield pieces
        if past and not anchored:
            return
    if size:
        yield [_paragraph(first, size, kept)]


def _paragraph(first: int, size: int, lines: list[bytes]) -> Piece:
    content = b"".join(lines).rstrip(b"\r\n") if size <= documents.MAX_DOCUMENT_BYTES + 2 else b""
    fits = content and len(content) <= documents.MAX_DOCUMENT_BYTES
    return (first, content) if fits else (first, too_long(first, size))


def _is_blank(line: bytes) -> bool:
    """Whether a line is white space, of Unicode too: U+3000 and U+00A0 make blank lines in BERT's own script."""
    content = line.strip()
    if not content:
        return True
    if 0x20 < content[0] < 0x80 or not content[:4].decode(errors="ignore")[:1].isspace():
        return False
    return content.decode(errors="replace").isspace()


def cut_whole(file: BinaryIO, start: int, stop: int | None) -> Iterator[list[Piece]]:
    """The file as one piece, which is never cut into ranges."""
    data = file.read(documents.MAX_DOCUMENT_BYTES + 1)
    size = len(data)
    while chunk := file.read(_CHUNK_BYTES) if size > documents.MAX_DOCUMENT_BYTES else b"":
        size += len(chunk)
    yield [(0, data if size <= documents.MAX_DOCUMENT_BYTES else too_long(0, size))]

"""Spans of input files -> documents, one after the other, in bounded memory."""

from collections.abc import Callable, Iterator
from typing import BinaryIO

from prep.corpus.compression import CHUNK_BYTES, DAMAGED_STREAM, decompressed
from prep.corpus.documents import Document, Fault, InputFile, Rule, Span, Texts
from prep.corpus.formats import FORMATS
from prep.corpus.recognize import HEAD_BYTES, Content, compression_of, content_of, recognize
from prep.corpus.tar import DAMAGE
from shards import storage
from shards.errors import UserError

# Part of the token store's key. Raise it when the same bytes give other documents than before.
READER_VERSION = 2


def read_documents(span: Span, rule: Rule) -> Iterator[Document | Fault]:
    """The documents of a span in order, and a Fault in place of each that is broken, as `read_texts` gives them."""
    for positions, texts, num_bytes, faults in read_texts(span, rule):
        items: list[Document | Fault] = [*map(Document, positions, texts, num_bytes), *faults]
        yield from sorted(items, key=lambda item: item.position)


def read_texts(span: Span, rule: Rule, on_progress: Callable[[int], None] = lambda _: None) -> Iterator[Texts]:
    """The documents of a span in order, one or many at once, and a Fault in place of each that is broken.

    A file is read as what its first bytes show it to be, where they do; then its first span is the whole file. After damage
    to a compressed stream or a tar nothing more of that file comes; after damage to a Parquet page, the next row group; after
    a damaged WARC record, the next record. `on_progress` gets the number of the file's own bytes read so far.

    Raises StorageError if the storage fails, and UserError for a file that cannot be read, or that is not what was listed.
    """
    file = span.file
    if not file.bytes:
        check_unchanged(file)
        return
    with storage.open_read(file.url) as stream:
        content = _content(stream, span)
        if content.format != file.format or content.compressions != ((file.compression,) if file.compression else ()):
            if span.start:
                return
            span = Span(file)
        position = reported = span.start
        try:
            for texts in _texts(stream, content, span, rule):
                if any(fault.reason == "damaged" for fault in texts.faults):
                    check_unchanged(file)
                position = max(position, texts.end)
                yield texts
                if position - reported >= CHUNK_BYTES:
                    reported = position
                    on_progress(stream.tell() - span.start)
        except DAMAGE as error:
            check_unchanged(file)
            yield Texts.of([Fault(position, "damaged", 0, f"{type(error).__name__}: {error}")])
    check_unchanged(file)


def _content(stream: BinaryIO, span: Span) -> Content:
    if not span.start:
        return recognize(stream, span.file)
    try:
        head = storage.read_bytes(span.file.url, 0, min(HEAD_BYTES, span.file.bytes))
    except storage.StorageError:
        check_unchanged(span.file)
        raise
    compression = compression_of(head)
    return Content(span.file.format, (compression,)) if compression else content_of(head, span.file)


def _texts(stream: BinaryIO, content: Content, span: Span, rule: Rule) -> Iterator[Texts]:
    if content.detail:
        return iter([Texts.of([Fault(0, "not_text", span.file.bytes, content.detail)])])
    return FORMATS[content.format].read(decompressed(stream, content.compressions, span.file.url), span, rule)


def check_unchanged(file: InputFile) -> None:
    """Raises UserError if the file is no longer the one that was listed: what was read may be parts of two files."""
    info = storage.find(file.url)
    if info is None:
        raise UserError(f"{file.url}: was removed while it was read; put it back, and run the same command again")
    if info.bytes != file.bytes or (file.version and info.version != file.version):
        sizes = f" (it had {file.bytes} bytes, it has {info.bytes})" if info.bytes != file.bytes else ""
        raise UserError(
            f"{file.url}: was changed after it was listed{sizes}; run the same command again when nothing writes to it"
        )


def check_input(file: InputFile, rule: Rule) -> None:
    """Looks at the beginning of a file before the build starts. Raises UserError for what no build could read."""
    with storage.open_read(file.url) as stream:
        content = recognize(stream, file)
        try:
            FORMATS[content.format].check(decompressed(stream, content.compressions, file.url), file, rule)
        except DAMAGED_STREAM:
            return  # the task that reads it reports the fault

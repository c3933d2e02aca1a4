"""The formats of inputs: how each is cut into spans, checked and read. A new one needs a row here and its name in `names`."""

from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from prep.corpus.documents import Document, Fault, InputFile, Rule, Span, Texts
from prep.corpus.json_lines import check_json_lines, read_json_lines
from prep.corpus.names import FormatName
from prep.corpus.parquet import check_parquet, read_parquet, split_row_groups
from prep.corpus.tar import read_tar
from prep.corpus.text import read_text, split_bytes, split_text
from prep.corpus.warc import check_warc, read_warc


class InputFormat(NamedTuple):
    """What differs between formats. Each function may rely on the file being of its format, or damaged."""

    # A file that is larger than a unit -> spans in order, with the listed bytes of each.
    split: Callable[[InputFile, Rule, int], list[tuple[Span, int]]]
    # Looks at the first file of its format before the build starts. Raises UserError.
    check: Callable[[BinaryIO, InputFile, Rule], None]
    # The decompressed stream -> the documents of a span, one or many at once.
    read: Callable[[BinaryIO, Span, Rule], Iterator[Texts]]
    # Whether spans count bytes of text. Those of Parquet count row groups, whose bytes are compressed.
    spans_are_bytes: bool = True


def _whole(file: InputFile, rule: Rule, unit_bytes: int) -> list[tuple[Span, int]]:
    return [(Span(file), file.bytes)]


def _no_check(file: BinaryIO, source: InputFile, rule: Rule) -> None:
    pass


def _read_other(file: BinaryIO, span: Span, rule: Rule) -> Iterator[Document | Fault]:
    yield Fault(0, "not_text", span.file.bytes, "a format that cannot be read")


def _one_by_one(
    read: Callable[[BinaryIO, Span, Rule], Iterator[Document | Fault]],
) -> Callable[[BinaryIO, Span, Rule], Iterator[Texts]]:
    return lambda file, span, rule: (Texts.of([item]) for item in read(file, span, rule))


FORMATS: dict[FormatName, InputFormat] = {
    "text": InputFormat(split_text, _no_check, read_text),
    "jsonl": InputFormat(split_bytes, check_json_lines, _one_by_one(read_json_lines)),
    "parquet": InputFormat(split_row_groups, check_parquet, _one_by_one(read_parquet), spans_are_bytes=False),
    "warc": InputFormat(_whole, check_warc, _one_by_one(read_warc)),
    "tar": InputFormat(_whole, _no_check, _one_by_one(read_tar)),
    "other": InputFormat(_whole, _no_check, _one_by_one(_read_other)),
}

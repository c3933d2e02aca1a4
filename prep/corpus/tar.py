"""Members of a tar -> documents: one per text file, or one per sample of a WebDataset."""

import re
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from prep.corpus.compression import DAMAGED_STREAM
from prep.corpus.documents import MAX_DOCUMENT_BYTES, Document, Fault, Rule, Span, too_long
from prep.corpus.json_lines import json_document
from prep.corpus.names import is_text_name

_SAMPLE = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
_BLOCK_BYTES = 512
_MAX_HEADER_BYTES = 1 << 20  # of an extended header: a long name, or attributes
_EXTENDED = (tarfile.SOLARIS_XHDTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_MANY_READS = 1000
# What is raised for a damaged tar, or a damaged stream that it comes in.
DAMAGE = (*DAMAGED_STREAM, tarfile.TarError)


class Member(NamedTuple):
    """A file of the tar: where its header begins, its name and the ending of it, its size, and its content where it fits."""

    position: int
    name: str
    ending: str
    size: int
    content: Any  # bytes, or None
    sample: str | None  # what is equal for the members of one sample

    @property
    def is_hidden(self) -> bool:
        """Whether the member, or a folder that it is in, is hidden; hidden files of a folder are not read either."""
        return any(part.startswith((".", "_")) for part in self.name.split("/"))


def read_tar(file: BinaryIO, span: Span, rule: Rule) -> Iterator[Document | Fault]:
    """The documents of a tar, each at the offset of its member's header. Raises one of DAMAGE."""
    texts, records = frozenset(("txt", rule.text_field.lower())), frozenset(("json",))
    for member in read_samples(file, texts, records):
        if member.is_hidden:
            yield Fault(member.position, "not_wanted", member.size, f"member {member.name}: its name is hidden")
        elif member.ending in records and member.content is not None:
            yield json_document(member.position, member.content, rule.text_field)
        elif member.ending not in texts and not is_text_name(member.name):
            yield Fault(member.position, "not_text", member.size, f"member {member.name}: unpack it, it is no plain text")
        else:
            yield _text_of(member)


def read_samples(file: BinaryIO, is_text: frozenset[str], is_record: frozenset[str]) -> Iterator[Member]:
    """The members of each sample that hold its text: those with an ending of `is_text`, else of `is_record`.

    Members whose names are equal up to the first dot are one sample, as in WebDataset, up to MAX_DOCUMENT_BYTES of them.
    If none has such an ending, all members of the sample come. Hidden members come too, as members of no sample. Raises
    tarfile.TarError for a stream that is no tar, that ends before its end mark, or that continues after it.
    """
    sample: list[Member] = []
    try:
        for member in _members(file):
            if member.is_hidden:
                yield member
                continue
            full = sum(held.size for held in sample) + member.size > MAX_DOCUMENT_BYTES
            if sample and (member.sample is None or member.sample != sample[-1].sample or full):
                yield from _texts(sample, is_text, is_record)
                sample = []
            sample.append(member)
    except DAMAGE:
        yield from _texts(sample, is_text, is_record)
        raise
    yield from _texts(sample, is_text, is_record)


def _texts(sample: list[Member], is_text: frozenset[str], is_record: frozenset[str]) -> list[Member]:
    for endings in (is_text, is_record):
        if any(member.ending in endings for member in sample):
            return [member for member in sample if member.ending in endings]
    return sample


def _members(file: BinaryIO) -> Iterator[Member]:
    """Every regular file."""
    tape: Any = _Tape(file)
    tar: Any
    with tarfile.open(fileobj=tape, mode="r|", errorlevel=2, tarinfo=_Info) as tar:
        for info in _infos(tar):
            name = info.name.removeprefix("./")
            if not info.isreg():
                continue
            matched = _SAMPLE.fullmatch(name)
            content = tar.extractfile(info) if info.size <= MAX_DOCUMENT_BYTES else None
            ending = name.rpartition(".")[2].lower() if matched else ""
            data = content.read() if content else None
            yield Member(info.offset, name, ending, info.size, data, matched[1] if matched else None)
            tar.members = []  # it would keep every header
        while rest := tar.fileobj.read(1 << 20):
            if any(rest):
                raise tarfile.ReadError("more follows after its end mark: concatenated tars, or a damaged header")
    if any(tape.last):
        raise tarfile.ReadError("it ends without its end mark: it was cut off")


def _infos(tar: Any) -> Iterator[Any]:
    try:
        yield from tar
    except RecursionError as error:
        raise tarfile.ReadError("an extended header describes an extended header, and so on") from error


class _Info(tarfile.TarInfo):
    """A header. `tarfile` reads an extended one into memory, whatever size it claims."""

    def _proc_member(self, tar: Any) -> Any:
        if self.type in _EXTENDED and not 0 <= self.size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"an extended header has {self.size} bytes, at most {_MAX_HEADER_BYTES} are read")
        return super()._proc_member(tar)  # type: ignore[misc]  # it has no public name


class _Tape:
    """A stream to read on, which remembers its last block: a whole tar ends with blocks of zeros."""

    def __init__(self, file: Any) -> None:
        self._file, self.last, self._num_empty = file, b"\1", 0

    def read(self, size: int) -> bytes:
        """The next bytes, as many as there are without a further step: nothing before a damaged place is lost."""
        data: bytes = self._file.read1(size)
        self._num_empty += not data
        if self._num_empty > _MANY_READS:  # `tarfile` passes over a member by reading, even when nothing is left
            raise tarfile.ReadError("it ends inside a member")
        self.last = (self.last + data)[-_BLOCK_BYTES:]
        return data


def _text_of(member: Member) -> Document | Fault:
    if member.content is None:
        return too_long(member.position, member.size)
    try:
        if b"\0" not in member.content:
            return Document(member.position, member.content.decode().removeprefix("\ufeff"), member.size)
        detail = "it holds a NUL byte"
    except UnicodeDecodeError as error:
        detail = f"byte {error.object[error.start]:#04x} at {error.start} is not UTF-8"
    return Fault(member.position, "not_text", member.size, f"member {member.name}: {detail}")

"""Members of a tar -> documents: one a text file, or one a sample of a WebDataset."""

import re
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from prep.corpus.compression import DAMAGED_STREAM
from prep.corpus.documents import MAX_DOCUMENT_BYTES, Document, Fault, too_long

_SAMPLE = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
_BLOCK_BYTES = 512
DAMAGE = (*DAMAGED_STREAM, tarfile.TarError)
"""What is raised for a damaged tar, or a damaged stream that it comes in."""


class Member(NamedTuple):
    """A file of the tar: where its header begins, its name and the ending of it, its size, and its content where it fits."""

    position: int
    name: str
    ending: str
    size: int
    content: Any  # bytes, or None


def read_samples(file: BinaryIO, is_text: frozenset[str], is_record: frozenset[str]) -> Iterator[Member]:
    """The members of each sample that hold its text: those with an ending of `is_text`, else of `is_record`.

    Members whose names are equal up to the first dot are one sample, as in WebDataset, up to MAX_DOCUMENT_BYTES of them.
    Where none has such an ending, all members of the sample come. Hidden members are passed over. Raises tarfile.TarError
    for a stream that is no tar, that ends before its end mark, or that goes on behind it.
    """
    sample: list[Member] = []
    key = None
    try:
        for member, its_key in _members(file):
            full = sum(held.size for held in sample) + member.size > MAX_DOCUMENT_BYTES
            if sample and (its_key is None or its_key != key or full):
                yield from _texts(sample, is_text, is_record)
                sample = []
            sample.append(member)
            key = its_key
    except DAMAGE:
        yield from _texts(sample, is_text, is_record)
        raise
    yield from _texts(sample, is_text, is_record)


def _texts(sample: list[Member], is_text: frozenset[str], is_record: frozenset[str]) -> list[Member]:
    for endings in (is_text, is_record):
        found = [member for member in sample if member.ending in endings]
        if found:
            return found
    return sample


def _members(file: BinaryIO) -> Iterator[tuple[Member, str | None]]:
    """Every regular file that is not hidden, with the key of its sample."""
    tape: Any = _Tape(file)
    tar: Any
    with tarfile.open(fileobj=tape, mode="r|", errorlevel=2) as tar:
        for info in tar:
            name = info.name.removeprefix("./")
            if not info.isreg() or any(part.startswith((".", "_")) for part in name.split("/")):
                continue
            matched = _SAMPLE.fullmatch(name)
            content = tar.extractfile(info) if info.size <= MAX_DOCUMENT_BYTES else None
            ending = name.rpartition(".")[2].lower() if matched else ""
            yield Member(info.offset, name, ending, info.size, content.read() if content else None), matched and matched[1]
            tar.members = []  # it would keep every header
        while rest := tar.fileobj.read(1 << 20):
            if any(rest):
                raise tarfile.ReadError("more stands behind the mark of its end: tars put together, or a damaged header")
    if any(tape.last):
        raise tarfile.ReadError("it ends without the mark of its end: it was cut off")


class _Tape:
    """A stream to read on, which remembers its last block: a whole tar ends with blocks of zeros."""

    def __init__(self, file: Any) -> None:
        self._file, self.last = file, b"\1"

    def read(self, size: int) -> bytes:
        """The next bytes, as many as there are without a further step: nothing before a damaged place is lost."""
        data: bytes = self._file.read1(size)
        self.last = (self.last + data)[-_BLOCK_BYTES:]
        return data


def text_of(member: Member) -> Document | Fault:
    """A member's content as a document."""
    if member.content is None:
        return too_long(member.position, member.size)
    try:
        if b"\0" not in member.content:
            return Document(member.position, member.content.decode().removeprefix("\ufeff"), member.size)
        detail = "it holds a NUL byte"
    except UnicodeDecodeError as error:
        detail = f"byte {error.object[error.start]:#04x} at {error.start} is not UTF-8"
    return Fault(member.position, "not_text", member.size, f"member {member.name}: {detail}")

"""What a file of the corpus, a part of it, and a document are; and what a reader returns in place of a broken document."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, NamedTuple

from prep.corpus.names import FormatName
from shards.errors import UserError

# A longer document is dropped and counted: a task must hold it in memory several times over.
MAX_DOCUMENT_BYTES = 64 << 20
# Reasons to leave a document out that are not errors: they never stop a build.
HARMLESS = ("too_long", "sampled_out", "not_wanted")


def name_key(name: str) -> int:
    """64 bits that stand for a name, wherever its file is."""
    return int.from_bytes(blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of the corpus. `name` is its path below its --corpus, after the last component of that; no two are equal."""

    name: str
    url: str
    bytes: int
    version: str
    format: FormatName
    compression: str  # a key of prep.corpus.compression.COMPRESSIONS, or ""
    corpus: int = 0  # index of the first --corpus that names it

    def identity(self, weights: Sequence[float]) -> dict[str, str | int | float]:
        """What the manifest keeps of a file; with `weights`, its weight too."""
        identity: dict[str, str | int | float] = {"name": self.name, "bytes": self.bytes}
        return identity | {"weight": weights[self.corpus]} if weights else identity


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a file: bytes [start, stop) of text and JSON lines, row groups [start, stop) of Parquet; None: to the end."""

    file: InputFile
    start: int = 0
    stop: int | None = None


class Rule(NamedTuple):
    """The settings that define a document."""

    document: str  # line, blank-line or file
    text_field: str
    is_exact: bool = False  # whether line ends in a text stay as they are; else a CR alone becomes a LF


class Document(NamedTuple):
    """A document: its byte offset in the decompressed file (Parquet: its row), its text, and the text's UTF-8 bytes."""

    position: int
    text: str
    num_bytes: int


class Fault(NamedTuple):
    """A document that cannot be used: where it begins, the reason, and how many of its bytes are known."""

    position: int
    reason: str
    num_bytes: int
    detail: str = ""
    place: Literal["byte", "row"] = "byte"  # what `position` counts


class Texts(NamedTuple):
    """D documents at once, in columns, and the faults among them."""

    positions: list[int]  # [D], as all but the last
    texts: list[str]
    num_bytes: list[int]
    faults: list[Fault]

    @property
    def end(self) -> int:
        """Where the last of them ends; 0 if there is none."""
        ends = [self.positions[-1] + self.num_bytes[-1]] if self.positions else [0]
        return max([*ends, *(fault.position + fault.num_bytes for fault in self.faults)])

    @staticmethod
    def of(items: Iterable[Document | Fault]) -> "Texts":
        """The columns of single documents."""
        columns = Texts([], [], [], [])
        for item in items:
            if isinstance(item, Fault):
                columns.faults.append(item)
            else:
                columns.positions.append(item.position)
                columns.texts.append(item.text)
                columns.num_bytes.append(item.num_bytes)
        return columns

    def extend(self, more: "Texts") -> None:
        """Adds the documents of another one, not its faults, of which there may be any number."""
        self.positions.extend(more.positions)
        self.texts.extend(more.texts)
        self.num_bytes.extend(more.num_bytes)


def too_long(position: int, num_bytes: int, place: Literal["byte", "row"] = "byte") -> Fault:
    """The fault of a document over MAX_DOCUMENT_BYTES."""
    return Fault(position, "too_long", num_bytes, f"over {MAX_DOCUMENT_BYTES} bytes", place)


def fault_error(file: InputFile, fault: Fault) -> UserError:
    """The error that stops a build at a broken document."""
    reason = "empty, without a sentence" if fault.reason == "no_sentence" else fault.reason.replace("_", " ")
    detail = f": {fault.detail}" if fault.detail else ""
    return UserError(
        f"{file.url}: at {fault.place} {fault.position}: {reason}{detail}; correct it and run the same command again, or leave "
        "such documents out with --on-error skip, which keeps what is done"
    )

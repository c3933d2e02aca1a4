"""What a document is, where it lies, and what stands in its place when it is broken."""

from dataclasses import dataclass
from typing import NamedTuple

from prep.corpus.files import InputFile
from prep.settings import Settings
from shards.errors import UserError

MAX_DOCUMENT_BYTES = 64 << 20
"""Longer documents are dropped and counted: one of them must fit a task's memory several times over."""
HARMLESS = ("too_long", "sampled_out", "not_wanted")
"""Reasons to leave a document out that are no error."""


class Document(NamedTuple):
    """A document: its byte offset in the decompressed file (Parquet: its row), its text, and that text's UTF-8 bytes."""

    position: int
    text: str
    num_bytes: int


class Fault(NamedTuple):
    """What stands where a document should: why it cannot be read, and as many bytes of it as are known."""

    position: int
    reason: str
    num_bytes: int
    detail: str = ""


@dataclass(frozen=True)
class Span:
    """A part of a file: bytes [start, stop) of text and JSON lines, row groups [start, stop) of Parquet; None: to the end."""

    file: InputFile
    start: int = 0
    stop: int | None = None


class Rule(NamedTuple):
    """The settings that say what a document is."""

    document: str  # line, blank-line or file
    text_field: str


def rule_of(settings: Settings) -> Rule:
    """The rule that the settings ask for."""
    return Rule(settings.document, settings.text_field)


def too_long(position: int, num_bytes: int) -> Fault:
    """In place of a document over MAX_DOCUMENT_BYTES."""
    return Fault(position, "too_long", num_bytes, f"over {MAX_DOCUMENT_BYTES} bytes")


def fault_error(file: InputFile, fault: Fault) -> UserError:
    """What ends a build at a broken document."""
    place = "row" if file.format == "parquet" else "byte"
    what = "empty, without a sentence" if fault.reason == "no_sentence" else fault.reason.replace("_", " ")
    detail = f": {fault.detail}" if fault.detail else ""
    return UserError(
        f"{file.url}: at {place} {fault.position}: {what}{detail}; mend it and run the same command again, or leave such "
        "documents out with --on-error skip, which keeps what is done"
    )

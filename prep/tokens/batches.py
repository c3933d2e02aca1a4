"""A unit of the corpus -> its documents, in batches of about BATCH_BYTES."""

from collections.abc import Iterator
from typing import NamedTuple

from prep.corpus.documents import HARMLESS, Fault, InputFile, Texts, fault_error
from prep.corpus.read import read_texts
from prep.records import UnitRecord
from prep.tokens.task import TokenizeTask

# A little more than the smallest unit (1 MB), so that such a unit is one batch.
BATCH_BYTES = 5 << 18
# The memory that any document takes, however short.
_DOCUMENT_BYTES = 64


class Batch(NamedTuple):
    """About BATCH_BYTES of documents."""

    documents: Texts  # without faults, which `left_out` counts
    files: list[InputFile]  # which each of them was read from
    left_out: UnitRecord  # counts what was left out while these documents were read
    bytes_read: int  # of the unit, up to here
    memory: int  # bytes that the documents take, about


def read_batches(task: TokenizeTask) -> Iterator[Batch]:
    """The documents of the unit, batch by batch."""
    documents, files, left_out, size = Texts.of([]), list[InputFile](), UnitRecord(), 0
    bytes_of_spans = 0
    for span in task.unit.spans:
        bytes_of_span = 0

        def note(num_bytes: int) -> None:
            nonlocal bytes_of_span
            bytes_of_span = num_bytes

        for more in read_texts(span, task.rule, note):
            for fault in more.faults:
                leave_out(left_out, task, span.file, fault)
            documents.extend(more)
            files += [span.file] * len(more.texts)
            size += sum(more.num_bytes) + _DOCUMENT_BYTES * len(more.texts)
            if size >= BATCH_BYTES:
                yield Batch(documents, files, left_out, bytes_of_spans + bytes_of_span, size)
                documents, files, left_out, size = Texts.of([]), [], UnitRecord(), 0
        bytes_of_spans += bytes_of_span
    yield Batch(documents, files, left_out, bytes_of_spans, size)


def leave_out(record: UnitRecord, task: TokenizeTask, file: InputFile, fault: Fault) -> None:
    """Counts a document that cannot be used in `record`. Raises UserError if it is broken and `on_error` is `stop`."""
    if task.on_error == "stop" and fault.reason not in HARMLESS:
        raise fault_error(file, fault)
    if fault.reason == "not_wanted":  # a crawl has as many as pages: they are counted, not listed
        record.leave_out(fault.reason, fault.num_bytes)
    else:
        record.drop(file, fault)

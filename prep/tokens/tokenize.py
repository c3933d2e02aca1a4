"""The first task: a unit of the corpus -> documents -> sentences -> token ids in the token store.

The result depends on the task alone. A task publishes its record last, and does nothing if the record exists already.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prep.corpus.documents import HARMLESS, Document, Fault, InputFile, Rule, fault_error, name_key
from prep.corpus.read import read_documents
from prep.plan import Unit
from prep.progress import Progress, save_progress
from prep.records import HISTOGRAM_BINS, UnitRecord, finished
from prep.settings import Splitting
from prep.tokens.encoder import REFERENCE, Encoder, EngineMismatchError
from prep.tokens.merge import RunMerger
from prep.tokens.sentences import split_sentences
from prep.tokens.sources import source_url
from prep.tokens.store import Documents, Places, words_of
from prep.tokens.tokenizer import load_prepared
from shards import storage
from shards.randomness import Purpose, combine, fraction
from shards.schema import Ints, lengths_to_offsets

TOKENIZE_STAGE = 1
BATCH_BYTES = 1 << 20
# A unit with more text is sorted in runs of this much, which bounds the memory that one huge compressed file takes.
RUN_BYTES = 128 << 20
# The memory that any document takes, however short.
_DOCUMENT_BYTES = 64


@dataclass(frozen=True)
class TokenizeTask:
    """A unit of the corpus, what to do with its documents, and the token store that their tokens go to."""

    unit: Unit
    key: str  # of the unit: its file in the store is called so
    rule: Rule
    splitting: Splitting
    on_error: str
    tokenizer_url: str
    engine: str  # `reference`, or the fast tokenizer with its version
    store: str
    places: Places  # of documents in the store
    weights: tuple[float, ...]  # of each corpus; empty: all 1
    by_content: bool  # a document's key is its content hash, so copies of it have the same key

    @property
    def name(self) -> str:
        """For messages."""
        span, more = self.unit.spans[0], len(self.unit.spans) - 1
        return f"tokenizing {span.file.url} from {span.start}" + (f" and {more} more" if more else "")

    @property
    def record_url(self) -> str:
        """The place of the unit's record, which exists once the unit is done."""
        return storage.join(self.store, f"{self.key}.json")

    def files_of(self, record: UnitRecord) -> list[tuple[str, int]]:
        """The URL and the size in bytes of the file that the record names; none for a unit without a document."""
        return [(source_url(self.store, self.key), record.stored_bytes)] if record.stored_bytes else []

    def accepts(self, record: UnitRecord) -> bool:
        """Whether an earlier record is valid here: without `--on-error skip`, it must not have left out broken documents."""
        return self.on_error == "skip" or all(reason in HARMLESS for reason in record.dropped)


class _Item(NamedTuple):
    """A document, and the file that it was read from."""

    file: InputFile
    document: Document


class _Batch(NamedTuple):
    """About BATCH_BYTES of documents."""

    items: list[_Item]
    left_out: UnitRecord  # counts what was left out while these documents were read
    bytes_read: int  # of the unit, up to here


@lru_cache(maxsize=2)
def _encoder(tokenizer_url: str, engine: str) -> Encoder:
    return Encoder(load_prepared(tokenizer_url), engine)


def tokenize_unit(task: TokenizeTask) -> UnitRecord:
    """Tokenizes a unit, or returns its record if that was done before.

    Raises UserError, with file and position, at a broken document unless `on_error` is `skip`.
    """
    record = finished(task.record_url, UnitRecord.load, task.files_of)
    if record and task.accepts(record):
        return record
    try:
        record = _tokenize(task, _encoder(task.tokenizer_url, task.engine))
    except EngineMismatchError:
        record = _tokenize(task, _encoder(task.tokenizer_url, REFERENCE))
    record.publish(task.record_url)
    return record


def _tokenize(task: TokenizeTask, encoder: Encoder) -> UnitRecord:
    """Writes the unit's file. Returns the sum of the records of its batches."""
    total = UnitRecord(engines={encoder.engine: 1})
    with RunMerger(encoder.id_type, task.places) as merger:
        size = 0
        for batch in _read_batches(task):
            total.add(batch.left_out)
            if batch.items:
                documents, record = _encode(batch.items, task, encoder)
                total.add(record)
                merger.add(words_of(documents))
                size += sum(map(_memory, batch.items))
            progress = Progress(batch.bytes_read, total.bytes, total.documents, total.tokens)
            save_progress(TOKENIZE_STAGE, task.unit.number, progress)
            if size >= RUN_BYTES:
                merger.end_run()
                size = 0
        if total.tokens:
            total.stored_documents, total.stored_bytes, total.index_bits = merger.publish(source_url(task.store, task.key))
    return total


def _memory(item: _Item) -> int:
    return item.document.num_bytes + _DOCUMENT_BYTES


def _read_batches(task: TokenizeTask) -> Iterator[_Batch]:
    """The documents of the unit, batch by batch."""
    items: list[_Item] = []
    left_out = UnitRecord()
    size = bytes_of_spans = 0
    for span in task.unit.spans:
        bytes_of_span = 0

        def note(num_bytes: int) -> None:
            nonlocal bytes_of_span
            bytes_of_span = num_bytes

        for document in read_documents(span, task.rule, note):
            if isinstance(document, Fault):
                _leave_out(left_out, task, span.file, document)
                continue
            items.append(_Item(span.file, document))
            size += _memory(items[-1])
            if size >= BATCH_BYTES:
                yield _Batch(items, left_out, bytes_of_spans + bytes_of_span)
                items, left_out, size = [], UnitRecord(), 0
        bytes_of_spans += bytes_of_span
    yield _Batch(items, left_out, bytes_of_spans)


def _leave_out(record: UnitRecord, task: TokenizeTask, file: InputFile, fault: Fault) -> None:
    """Counts a document that cannot be used in `record`. Raises UserError if it is broken and `on_error` is `stop`."""
    if task.on_error == "stop" and fault.reason not in HARMLESS:
        raise fault_error(file, fault)
    if fault.reason == "not_wanted":  # a crawl has as many as pages: they are counted, not listed
        record.leave_out(fault.reason, fault.num_bytes)
    else:
        record.drop(file, fault)


def _encode(items: list[_Item], task: TokenizeTask, encoder: Encoder) -> tuple[Documents, UnitRecord]:
    """Splits and encodes documents. Those that the weights leave out, and those without a token, are dropped."""
    hashes, keys, copies = _identify(items, task)
    sentences, num_sentences = _split(items, copies > 0, task.splitting, encoder.needs_leading_space)
    ids, lengths = encoder.encode(sentences, offset=int(task.key[:8], 16))
    has_tokens = lengths > 0
    num_sentences = np.diff(lengths_to_offsets(has_tokens)[lengths_to_offsets(num_sentences)])
    num_bytes = np.array([item.document.num_bytes for item in items], np.uint32)
    sentence_lengths = lengths[has_tokens].astype(np.uint32)
    documents = Documents(keys, hashes, num_bytes, num_sentences.astype(np.uint32), sentence_lengths, ids)
    used = np.flatnonzero(num_sentences)
    if len(used) < len(items) or copies.max() > 1:
        documents = _with_own_keys(documents.take(np.repeat(used, copies[used])), copies[used])
    corpora = np.array([items[i].file.corpus for i in used], np.int64)
    record = _count(documents, np.repeat(corpora, copies[used]), encoder.unknown_id)
    for i in np.flatnonzero(copies == 0):
        record.leave_out("sampled_out", items[i].document.num_bytes)
    for i in np.flatnonzero((num_sentences == 0) & (copies > 0)):
        file, document = items[i]
        _leave_out(record, task, file, Fault(document.position, "no_sentence", document.num_bytes))
    return documents, record


def _identify(
    items: list[_Item], task: TokenizeTask
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """[items] content hashes, keys, and the number of copies of each document that the weights ask for."""
    hashes: npt.NDArray[np.uint64] = np.empty(len(items), np.uint64)
    for i, (_, document) in enumerate(items):
        hashes[i] = int.from_bytes(blake2b(document.text.strip().encode(), digest_size=8).digest(), "little")
    names = {file: name_key(file) for file in {item.file.name for item in items}}
    files: npt.NDArray[np.uint64] = np.array([names[item.file.name] for item in items], np.uint64)
    positions: npt.NDArray[np.uint64] = np.array([item.document.position for item in items], np.uint64)
    keys = hashes if task.by_content else combine(files, positions)
    copies = np.ones(len(items), np.int64)
    if task.weights:
        # A weight of 2.3 gives each document two copies, and a third to 3 of 10, drawn by the document's key.
        weights = np.array([task.weights[item.file.corpus] for item in items])
        draws = fraction(combine(keys, np.uint64(Purpose.CORPUS_WEIGHT)))
        copies = weights.astype(np.int64) + (draws < weights % 1.0)
        held_out = hashes < np.uint64(task.places.held_out_below)
        copies[held_out] = np.minimum(copies, 1)[held_out]
    return hashes, keys, copies


def _split(
    items: list[_Item], is_used: npt.NDArray[np.bool_], splitting: Splitting, leading_space: bool
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The sentences of all used documents, and their number in each document [items]."""
    sentences: list[str] = []
    num_sentences: npt.NDArray[np.int64] = np.zeros(len(items), np.int64)
    for i in np.flatnonzero(is_used):
        pieces = split_sentences(items[i].document.text, splitting)
        if leading_space:
            pieces[1:] = [f" {piece}" for piece in pieces[1:]]
        sentences += pieces
        num_sentences[i] = len(pieces)
    return sentences, num_sentences


def _with_own_keys(documents: Documents, copies: npt.NDArray[np.int64]) -> Documents:
    """Documents each of which is repeated `copies[d]` times in a row: all but the first of each get keys of their own."""
    ends = np.cumsum(copies)
    number = (np.arange(len(documents.keys)) - np.repeat(ends - copies, copies)).astype(np.uint64)
    new_keys = combine(combine(documents.keys, np.uint64(Purpose.CORPUS_WEIGHT)), number)
    keys = np.where(number > 0, new_keys, documents.keys)
    return replace(documents, keys=keys, num_bytes=np.where(number > 0, 0, documents.num_bytes).astype(np.uint32))


def _count(documents: Documents, corpora: npt.NDArray[np.int64], unknown_id: int | None) -> UnitRecord:
    """The record of documents, document d being of corpus `corpora[d]`. Copies that a weight adds have 0 bytes."""
    is_first = documents.num_bytes > 0
    num_documents, num_bytes = int(is_first.sum()), int(documents.num_bytes.sum(dtype=np.int64))
    lengths = documents.document_lengths()
    amounts = [is_first, np.ones(len(is_first)), documents.num_bytes, lengths]
    by_corpus = [np.bincount(corpora, amount) for amount in amounts]
    record = UnitRecord(
        documents=num_documents,
        bytes=num_bytes,
        used_documents=num_documents,
        used_bytes=num_bytes,
        sentences=len(documents.sentence_lengths),
        tokens=len(documents.ids),
        unknown_tokens=0 if unknown_id is None else int(np.count_nonzero(documents.ids == unknown_id)),
        document_tokens=_histogram(lengths),
        sentence_tokens=_histogram(documents.sentence_lengths),
        corpora=[list(map(int, counts)) for counts in zip(*by_corpus, strict=True)],
    )
    record.see(Counter(documents.hashes[is_first].tolist()))
    return record


def _histogram(lengths: Ints) -> list[int]:
    """[HISTOGRAM_BINS] bin b counts lengths in [2**(b - 1), 2**b)."""
    counts: list[int] = np.bincount(np.frexp(lengths)[1], minlength=HISTOGRAM_BINS).tolist()
    return counts

"""The first task: a unit of the corpus -> documents -> sentences -> token ids in the token store.

It is a function of the task alone, publishes its record last, and does nothing when the record is there.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prep.corpus.documents import HARMLESS, Document, Fault, InputFile, Rule, fault_error
from prep.corpus.read import read_documents
from prep.plan import Unit
from prep.progress import Progress, save_progress
from prep.records import HISTOGRAM_BINS, UnitRecord, finished
from prep.settings import Splitting
from prep.tokens.encoder import Encoder, EngineMismatchError
from prep.tokens.sentences import split_sentences
from prep.tokens.store import Documents, encode_segment, join_documents, segment_url
from prep.tokens.tokenizer import load_prepared
from shards import storage
from shards.randomness import Purpose, below, combine, fraction, mix
from shards.schema import lengths_to_offsets

TOKENIZE_STAGE = 1
BATCH_BYTES = 1 << 20
SEGMENT_BYTES = 128 << 20
"""Text after which the tokens gathered are written out, so that one huge compressed file stays in bounds."""
_DOCUMENT_BYTES = 64
"""Of memory that any document takes, however short."""


@dataclass(frozen=True)
class TokenizeTask:
    """A unit, the rules for it, and where its tokens go. Documents with a content hash under `eval_below` are held out."""

    unit: Unit
    rule: Rule
    splitting: Splitting
    on_error: str
    tokenizer_url: str
    fast: bool
    store: str
    num_partitions: int
    num_eval_partitions: int
    eval_below: int
    weights: tuple[float, ...]  # of each corpus; empty: 1
    num_corpora: int
    by_content: bool  # documents are known by their content hash, so that copies have one key

    @property
    def name(self) -> str:
        """For messages."""
        span, more = self.unit.spans[0], len(self.unit.spans) - 1
        return f"tokenizing {span.file.url} from {span.start}" + (f" and {more} more" if more else "")

    @property
    def record_url(self) -> str:
        """Where the unit's record is once it is done."""
        return storage.join(self.store, f"unit-{self.unit.number:06d}.json")

    def segments_of(self, record: UnitRecord) -> list[tuple[str, int]]:
        """The URL and the bytes of each segment that the record speaks of."""
        urls = (segment_url(self.store, self.unit.number, segment) for segment in range(len(record.segments)))
        return list(zip(urls, record.segments, strict=True))

    def accepts(self, record: UnitRecord) -> bool:
        """Whether a record will do: one that left broken documents out does not where these stop the build."""
        return self.on_error == "skip" or all(reason in HARMLESS for reason in record.dropped)


class _Item(NamedTuple):
    """A document that was read, with its file."""

    file: InputFile
    document: Document


@lru_cache(maxsize=2)
def _encoder(tokenizer_url: str, fast: bool) -> Encoder:
    return Encoder(load_prepared(tokenizer_url), fast)


def tokenize_unit(task: TokenizeTask) -> UnitRecord:
    """Tokenizes a unit, or returns the record of when that was done.

    Raises UserError, with file and position, at a broken document where `on_error` is stop.
    """
    done = finished(task.record_url, UnitRecord.load, task.segments_of)
    if done and task.accepts(done):
        return done
    try:
        record = _tokenize(task, _encoder(task.tokenizer_url, task.fast))
    except EngineMismatchError:
        record = _tokenize(task, _encoder(task.tokenizer_url, False))
    storage.publish(task.record_url, json.dumps(vars(record)).encode())
    return record


def _tokenize(task: TokenizeTask, encoder: Encoder) -> UnitRecord:
    num_buckets = task.num_partitions + task.num_eval_partitions
    record = UnitRecord(bucket_documents=[0] * num_buckets, bucket_tokens=[0] * num_buckets)
    record.corpora = [[0] * 4 for _ in range(task.num_corpora)]
    gathered: list[Documents] = []
    size = 0
    for batch in _batches(task, record):
        gathered.append(_encode(batch, task, encoder, record))
        size += sum(item.document.num_bytes + _DOCUMENT_BYTES for item in batch)
        if size >= SEGMENT_BYTES:
            _write_segment(task, record, gathered)
            gathered, size = [], 0
    if gathered:
        _write_segment(task, record, gathered)
    return record


def _batches(task: TokenizeTask, record: UnitRecord) -> Iterator[list[_Item]]:
    """The unit's documents in batches of about BATCH_BYTES of text."""
    batch: list[_Item] = []
    size = done = 0
    for span in task.unit.spans:
        read = 0

        def see(num_bytes: int) -> None:
            nonlocal read
            read = num_bytes

        for item in read_documents(span, task.rule, see):
            if isinstance(item, Fault):
                _drop(task, record, span.file, item)
                continue
            batch.append(_Item(span.file, item))
            size += item.num_bytes + _DOCUMENT_BYTES
            if size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
                progress = Progress(done + read, record.bytes, record.documents, record.tokens)
                save_progress(TOKENIZE_STAGE, task.unit.number, progress)
        done += read
    if batch:
        yield batch


def _drop(task: TokenizeTask, record: UnitRecord, file: InputFile, fault: Fault) -> None:
    if task.on_error == "stop" and fault.reason not in HARMLESS:
        raise fault_error(file, fault)
    if fault.reason == "not_wanted":  # as many as there are pages; nothing to look up
        record.leave_out(fault.reason, fault.num_bytes)
    else:
        record.drop(file, fault)


def _encode(batch: list[_Item], task: TokenizeTask, encoder: Encoder, record: UnitRecord) -> Documents:
    """Splits and encodes a batch, and counts it. Documents that the weights leave out or without a token are dropped."""
    hashes, keys, copies = _identify(batch, task)
    for out in np.flatnonzero(copies == 0):
        record.leave_out("sampled_out", batch[out].document.num_bytes)
    sentences: list[str] = []
    num_sentences: npt.NDArray[np.int64] = np.zeros(len(batch), np.int64)
    for i, item in enumerate(batch):
        if copies[i]:
            pieces = split_sentences(item.document.text, task.splitting)
            if encoder.says_blanks:
                pieces[1:] = [f" {piece}" for piece in pieces[1:]]
            sentences += pieces
            num_sentences[i] = len(pieces)
    ids, lengths = encoder.encode(sentences, offset=task.unit.number)
    counted = np.diff(lengths_to_offsets(lengths > 0)[lengths_to_offsets(num_sentences)])
    num_bytes = np.array([item.document.num_bytes for item in batch], np.uint32)
    documents = Documents(keys, hashes, num_bytes, counted.astype(np.uint32), lengths[lengths > 0].astype(np.uint32), ids)
    for empty in np.flatnonzero((counted == 0) & (copies > 0)):
        file, document = batch[empty]
        _drop(task, record, file, Fault(document.position, "no_sentence", document.num_bytes))
    used = np.flatnonzero(counted)
    if len(used) < len(batch) or copies.max() > 1:
        documents = _copied(documents.take(np.repeat(used, copies[used])), copies[used])
    corpora = np.array([batch[i].file.corpus for i in used], np.int64)
    _count(record, documents, np.repeat(corpora, copies[used]), encoder.unknown_id)
    return documents


def _identify(
    batch: list[_Item], task: TokenizeTask
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """[batch] content hashes, keys, and how many copies of each document are wanted."""
    hashes: npt.NDArray[np.uint64] = np.empty(len(batch), np.uint64)
    for i, (_, document) in enumerate(batch):
        hashes[i] = int.from_bytes(blake2b(document.text.strip().encode(), digest_size=8).digest(), "little")
    files: npt.NDArray[np.uint64] = np.array([item.file.ordinal for item in batch], np.uint64)
    positions: npt.NDArray[np.uint64] = np.array([item.document.position for item in batch], np.uint64)
    keys = hashes if task.by_content else combine(mix(files), positions)
    copies = np.ones(len(batch), np.int64)
    if task.weights:
        weights = np.array([task.weights[item.file.corpus] for item in batch])
        shares = fraction(combine(keys, np.uint64(Purpose.CORPUS_WEIGHT)))
        copies = weights.astype(np.int64) + (shares < weights % 1.0)
        copies[hashes < np.uint64(task.eval_below)] = np.minimum(copies, 1)[hashes < np.uint64(task.eval_below)]
    return hashes, keys, copies


def _copied(documents: Documents, copies: npt.NDArray[np.int64]) -> Documents:
    """Documents that were repeated `copies` times, with keys of their own for all but the first of each."""
    ends = np.cumsum(copies)
    number = (np.arange(len(documents.keys)) - np.repeat(ends - copies, copies)).astype(np.uint64)
    further = combine(combine(documents.keys, np.uint64(Purpose.CORPUS_WEIGHT)), number)
    keys = np.where(number > 0, further, documents.keys)
    return replace(documents, keys=keys, num_bytes=np.where(number > 0, 0, documents.num_bytes).astype(np.uint32))


def _count(record: UnitRecord, documents: Documents, corpora: npt.NDArray[np.int64], unknown_id: int | None) -> None:
    """Adds a batch to the record; `corpora[d]` says which one document d is of. Copies have 0 bytes."""
    first = documents.num_bytes > 0
    num_bytes = int(documents.num_bytes.sum(dtype=np.int64))
    record.documents += int(first.sum())
    record.used_documents += int(first.sum())
    record.bytes += num_bytes
    record.used_bytes += num_bytes
    record.sentences += len(documents.sentence_lengths)
    record.tokens += len(documents.ids)
    record.unknown_tokens += 0 if unknown_id is None else int(np.count_nonzero(documents.ids == unknown_id))
    record.see(Counter(documents.hashes[first].tolist()))
    tokens = np.diff(documents.token_offsets()[documents.sentence_offsets()])
    for i, amounts in enumerate((first, np.ones(len(first)), documents.num_bytes, tokens)):
        for corpus, amount in enumerate(np.bincount(corpora, amounts, minlength=len(record.corpora))):
            record.corpora[corpus][i] += int(amount)
    for histogram, lengths in ((record.document_tokens, tokens), (record.sentence_tokens, documents.sentence_lengths)):
        counts = np.bincount(np.frexp(lengths)[1], minlength=HISTOGRAM_BINS)
        histogram[:] = [total + int(count) for total, count in zip(histogram, counts, strict=True)]


def _write_segment(task: TokenizeTask, record: UnitRecord, gathered: list[Documents]) -> None:
    documents = join_documents(gathered)
    buckets = _buckets(documents, task)
    num_buckets = len(record.bucket_documents)
    tokens = np.diff(documents.token_offsets()[documents.sentence_offsets()])
    for totals, weights in ((record.bucket_documents, None), (record.bucket_tokens, tokens)):
        counts = np.bincount(buckets, weights, minlength=num_buckets)
        totals[:] = [total + int(count) for total, count in zip(totals, counts, strict=True)]
    data = encode_segment(documents, buckets, num_buckets)
    storage.publish(segment_url(task.store, task.unit.number, len(record.segments)), data)
    record.segments.append(len(data))


def _buckets(documents: Documents, task: TokenizeTask) -> npt.NDArray[np.int64]:
    """The bucket of each document: a train partition, or one of the held-out ones behind them."""
    bits = combine(documents.keys, np.uint64(Purpose.PARTITION))
    train = below(bits, np.uint64(task.num_partitions))
    held_out = np.uint64(task.num_partitions) + below(bits, np.uint64(max(1, task.num_eval_partitions)))
    is_held_out = documents.hashes < np.uint64(task.eval_below)
    buckets: npt.NDArray[np.int64] = np.where(is_held_out, held_out, train).astype(np.int64)
    return buckets

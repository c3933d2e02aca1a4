"""A batch of documents -> their token ids, and the record of what they held."""

from dataclasses import replace
from hashlib import blake2b
from itertools import chain

import numpy as np
import numpy.typing as npt

from prep.corpus.documents import Fault, name_key
from prep.records import HISTOGRAM_BINS, SKETCH_SIZE, UnitRecord
from prep.settings import Splitting
from prep.tokens.batches import Batch, leave_out
from prep.tokens.encoder import Encoder
from prep.tokens.sentences import split_sentences
from prep.tokens.store import Documents
from prep.tokens.task import TokenizeTask
from shards.randomness import Purpose, combine, fraction
from shards.schema import Ints, lengths_to_offsets


def encode_documents(batch: Batch, task: TokenizeTask, encoder: Encoder, number: int) -> tuple[Documents, UnitRecord]:
    """Splits and encodes the documents of a batch. Those that the weights leave out, and those without a token, are dropped.

    `number` sentences of the unit came before.
    """
    positions, texts, text_bytes, _ = batch.documents
    hashes, keys, copies = _identify(batch, task)
    pieces = _cut(texts, copies.tolist(), task.splitting, encoder)
    ids, lengths = encoder.encode(list(chain.from_iterable(pieces)), number)
    num_sentences: npt.NDArray[np.int64] = np.fromiter(map(len, pieces), np.int64, len(pieces))
    if task.splitting.rule == "whole":
        # A document that is not empty is one sentence to the modules that come after this one, of however many parts.
        totals = np.diff(lengths_to_offsets(lengths)[lengths_to_offsets(num_sentences)])
        lengths, num_sentences = totals[num_sentences > 0], np.minimum(num_sentences, 1)
    has_tokens = lengths > 0
    num_sentences = np.diff(lengths_to_offsets(has_tokens)[lengths_to_offsets(num_sentences)])
    num_bytes = np.array(text_bytes, np.uint32)
    sentence_lengths = lengths[has_tokens].astype(np.uint32)
    documents = Documents(keys, hashes, num_bytes, num_sentences.astype(np.uint32), sentence_lengths, ids)
    used = np.flatnonzero(num_sentences)
    if len(used) < len(texts) or copies.max() > 1:
        documents = _with_own_keys(documents.take(np.repeat(used, copies[used])), copies[used])
    corpora = np.array([file.corpus for file in batch.files], np.int64)[used]
    record = _count(documents, np.repeat(corpora, copies[used]), encoder.unknown_id)
    for i in np.flatnonzero(copies == 0):
        record.leave_out("sampled_out", text_bytes[i])
    for i in np.flatnonzero((num_sentences == 0) & (copies > 0)):
        leave_out(record, task, batch.files[i], Fault(positions[i], "no_sentence", text_bytes[i]))
    return documents, record


def _identify(batch: Batch, task: TokenizeTask) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """[documents] content hashes, keys, and the number of copies of each document that the weights ask for."""
    digests = b"".join([blake2b(text.strip().encode(), digest_size=8).digest() for text in batch.documents.texts])
    hashes: npt.NDArray[np.uint64] = np.frombuffer(digests, "<u8").astype(np.uint64)
    names = {name: name_key(name) for name in {file.name for file in batch.files}}
    files: npt.NDArray[np.uint64] = np.array([names[file.name] for file in batch.files], np.uint64)
    positions: npt.NDArray[np.uint64] = np.array(batch.documents.positions, np.uint64)
    keys = hashes if task.by_content else combine(files, positions)
    copies = np.ones(len(keys), np.int64)
    if task.weights:
        # A weight of 2.3 gives each document two copies, and a third to 3 of 10, drawn by the document's key.
        weights = np.array([task.weights[file.corpus] for file in batch.files])
        draws = fraction(combine(keys, np.uint64(Purpose.CORPUS_WEIGHT)))
        copies = weights.astype(np.int64) + (draws < weights % 1.0)
        held_out = hashes < np.uint64(task.places.held_out_below)
        copies[held_out] = np.minimum(copies, 1)[held_out]
    return hashes, keys, copies


def _cut(texts: list[str], copies: list[int], splitting: Splitting, encoder: Encoder) -> list[list[str]]:
    """The sentences of each document, or its parts that are encoded one by one; nothing of those without a copy."""
    if splitting.rule == "whole":
        return [encoder.parts_of(text) if count else [] for text, count in zip(texts, copies, strict=True)]
    sentences = [split_sentences(text, splitting) if count else [] for text, count in zip(texts, copies, strict=True)]
    if encoder.needs_leading_space:
        return [first[:1] + [f" {sentence}" for sentence in first[1:]] for first in sentences]
    return sentences


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
    hashes, counts = np.unique(documents.hashes[is_first], return_counts=True)
    record.see(dict(zip(hashes[:SKETCH_SIZE].tolist(), counts[:SKETCH_SIZE].tolist(), strict=True)))
    return record


def _histogram(lengths: Ints) -> list[int]:
    """[HISTOGRAM_BINS] bin b counts lengths in [2**(b - 1), 2**b)."""
    counts: list[int] = np.bincount(np.frexp(lengths)[1], minlength=HISTOGRAM_BINS).tolist()
    return counts

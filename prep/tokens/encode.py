"""A batch of documents -> their token ids, and the record of what they held."""

from dataclasses import replace
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from prep.corpus.documents import Fault, name_key
from prep.records import HISTOGRAM_BINS, SKETCH_SIZE, UnitRecord
from prep.settings import Splitting
from prep.tokens.batches import Item, leave_out
from prep.tokens.encoder import Encoder
from prep.tokens.sentences import split_sentences
from prep.tokens.store import Documents
from prep.tokens.task import TokenizeTask
from shards.randomness import Purpose, combine, fraction
from shards.schema import Ints, lengths_to_offsets


def encode_documents(items: list[Item], task: TokenizeTask, encoder: Encoder, number: int) -> tuple[Documents, UnitRecord]:
    """Splits and encodes documents. Those that the weights leave out, and those without a token, are dropped.

    `number` sentences of the unit came before.
    """
    hashes, keys, copies = _identify(items, task)
    if task.splitting.rule == "whole":
        ids, lengths, num_sentences = _encode_whole(items, copies > 0, encoder, number)
    else:
        sentences, num_sentences = _split(items, copies > 0, task.splitting, encoder.needs_leading_space)
        ids, lengths = encoder.encode(sentences, number)
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
        leave_out(record, task, file, Fault(document.position, "no_sentence", document.num_bytes))
    return documents, record


def _identify(
    items: list[Item], task: TokenizeTask
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """[items] content hashes, keys, and the number of copies of each document that the weights ask for."""
    digests = [blake2b(document.text.strip().encode(), digest_size=8).digest() for _, document in items]
    hashes: npt.NDArray[np.uint64] = np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)
    names = {name: name_key(name) for name in {item.file.name for item in items}}
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


def _encode_whole(items: list[Item], is_used: npt.NDArray[np.bool_], encoder: Encoder, number: int) -> tuple[Ints, Ints, Ints]:
    """The ids of all used documents, their number in each used document, and 1 for each of those [items].

    A document that is not empty is one sentence to the modules that come after this one.
    """
    parts: list[str] = []
    num_parts: npt.NDArray[np.int64] = np.zeros(len(items), np.int64)
    for i in np.flatnonzero(is_used):
        parts_of_document = encoder.parts_of(items[i].document.text)
        parts += parts_of_document
        num_parts[i] = len(parts_of_document)
    ids, lengths = encoder.encode(parts, number)
    totals = np.diff(lengths_to_offsets(lengths)[lengths_to_offsets(num_parts)])
    return ids, totals[num_parts > 0], np.minimum(num_parts, 1)


def _split(
    items: list[Item], is_used: npt.NDArray[np.bool_], splitting: Splitting, leading_space: bool
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
    hashes, counts = np.unique(documents.hashes[is_first], return_counts=True)
    record.see(dict(zip(hashes[:SKETCH_SIZE].tolist(), counts[:SKETCH_SIZE].tolist(), strict=True)))
    return record


def _histogram(lengths: Ints) -> list[int]:
    """[HISTOGRAM_BINS] bin b counts lengths in [2**(b - 1), 2**b)."""
    counts: list[int] = np.bincount(np.frexp(lengths)[1], minlength=HISTOGRAM_BINS).tolist()
    return counts

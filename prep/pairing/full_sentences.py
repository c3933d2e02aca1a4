"""Sequences of full sentences: one segment, no pair task; documents are kept apart, or run on with a separator between."""

from typing import Any

import numpy as np
import numpy.typing as npt

from prep.pairing.sequences import FIRST_CHUNK, Sequences, target_length
from prep.records import Tally
from prep.tokens.store import Documents
from shards.compiled import compiled
from shards.randomness import combine


def fill_sentences(
    documents: Documents,
    order: npt.NDArray[np.int64],
    keys: npt.NDArray[np.uint64],
    max_tokens: int,
    short_seq_prob: float,
    separator: int | None,
) -> tuple[npt.NDArray[Any], Sequences, Tally]:
    """DOC-SENTENCES, or FULL-SENTENCES where a `separator` is given (Liu et al. 2019, RoBERTa, arXiv:1907.11692, section 4.2).

    A sequence takes whole consecutive sentences while they fit. With a separator it goes on into the next document in
    `order`, with that id between the two. A sentence that is too long for any sequence is cut, and nothing of it is lost.
    With probability `short_seq_prob` the sequences that begin in a document aim at a random shorter length, as BERT's do.
    Returns the ids that the sequences are indices of.
    """
    sentences = documents.sentence_offsets()
    if separator is None:
        ids, starts = documents.ids, documents.token_offsets()[:-1]
    else:
        documents, keys = documents.take(order), keys[order]
        order, sentences = np.arange(len(order)), documents.sentence_offsets()
        token_starts = documents.token_offsets()
        ids = np.insert(documents.ids, token_starts[sentences[1:-1]], separator)
        starts = token_starts[:-1] + np.repeat(np.arange(len(order)), np.diff(sentences))
    lengths = documents.sentence_lengths.astype(np.int64)
    parts = _fill(order, sentences, starts, lengths, keys, max_tokens, short_seq_prob, separator is not None)
    sequence_starts, sequence_lengths, sequence_keys, separators = parts
    none = np.zeros(len(sequence_starts), np.int64)
    sequences = Sequences(
        sequence_starts, sequence_lengths, none, none, None, np.zeros(len(sequence_starts), np.bool_), sequence_keys
    )
    made = int(lengths.sum())
    return ids, sequences, Tally(made, made, 0, 0, 0, 0, 0, int(separators))


@compiled
def _fill(
    order: Any,
    document_sentences: Any,
    sentence_starts: Any,
    sentence_lengths: Any,
    keys: Any,
    max_tokens: int,
    short_seq_prob: float,
    cross: bool,
) -> Any:
    most = len(sentence_lengths) + sentence_lengths.sum() // max_tokens + 1
    starts, lengths = np.empty(most, np.int64), np.empty(most, np.int64)
    sequence_keys = np.empty(most, np.uint64)
    filled = start = length = separators = 0
    target = np.int64(0)
    key = np.uint64(0)
    for document in order:
        number = FIRST_CHUNK
        own_target = target_length(keys[document], max_tokens, short_seq_prob)
        first, last = document_sentences[document], document_sentences[document + 1]
        for i in range(first, last):
            gap = 1 if cross and i == first else 0
            at, left = sentence_starts[i], sentence_lengths[i]
            if length > 0 and length + gap + left <= target and (cross or i > first):
                length += gap + left
                separators += gap
                continue
            if length > 0:
                starts[filled], lengths[filled], sequence_keys[filled] = start, length, key
                filled += 1
            while left > max_tokens:
                starts[filled], lengths[filled] = at, max_tokens
                sequence_keys[filled] = combine(keys[document], np.uint64(number))
                filled, number, at, left = filled + 1, number + 1, at + max_tokens, left - max_tokens
            key = combine(keys[document], np.uint64(number))
            number += 1
            start, length, target = at, left, own_target
    if length > 0:
        starts[filled], lengths[filled], sequence_keys[filled] = start, length, key
        filled += 1
    return starts[:filled], lengths[:filled], sequence_keys[:filled], separators

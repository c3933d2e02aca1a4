"""Sequences of full sentences, as RoBERTa makes them: one segment, no pair task.

Documents are kept apart, or sequences run on into the next document with a separator between.
"""

from typing import Any

import numpy as np

from prep.pairing.sequences import FIRST_CHUNK, SEQUENCE, Docs, Sequences, as_columns, target_length
from prep.tally import Tally
from shards.compiled import compiled
from shards.randomness import stream
from shards.schema import Ints, lengths_to_offsets


def fill_sentences(docs: Docs, max_tokens: int, short_seq_prob: float, separator: int | None) -> tuple[Ints, Sequences, Tally]:
    """DOC-SENTENCES, or FULL-SENTENCES with a `separator` (Liu et al. 2019, RoBERTa, arXiv:1907.11692, section 4.2).

    A sequence takes whole consecutive sentences while they fit into `max_tokens`. With a separator it continues into the
    next document of `docs.order`, with that id between the two. A sentence that is too long for any sequence is cut, and
    nothing of it is lost. With probability `short_seq_prob` the sequences that begin in a document aim at a random shorter
    length, as BERT's do. Returns the ids [T] that the sequences are indices of, the sequences, and what became of the tokens.
    """
    made = int(docs.token_offsets[-1])
    if separator is not None:
        docs = _joined(docs, separator)
    filled, separators = _fill(docs, max_tokens, short_seq_prob, separator is not None)
    return docs.ids, as_columns(filled, labelled=False), Tally(made, made, 0, 0, 0, 0, 0, int(separators))


def _joined(docs: Docs, separator: int) -> Docs:
    """The documents one after the other, with a separator as the first token of each but the first.

    The separator belongs to the first sentence of its document, so a sequence that continues takes it along.
    """
    num_sentences = np.diff(docs.sentence_offsets)[docs.order]
    sentence_offsets = lengths_to_offsets(num_sentences)
    starts = docs.sentence_offsets[:-1][docs.order]
    sentences = np.arange(sentence_offsets[-1]) + np.repeat(starts - sentence_offsets[:-1], num_sentences)
    lengths = np.diff(docs.token_offsets)[sentences]
    token_offsets = lengths_to_offsets(lengths)
    tokens = np.arange(token_offsets[-1]) + np.repeat(docs.token_offsets[:-1][sentences] - token_offsets[:-1], lengths)
    ids = np.insert(docs.ids[tokens], token_offsets[sentence_offsets[1:-1]], separator)
    lengths[sentence_offsets[1:-1]] += 1
    order = np.arange(len(docs.order))
    return Docs(order, sentence_offsets, lengths_to_offsets(lengths), ids, docs.hashes[docs.order], docs.keys[docs.order])


@compiled
def _fill(docs: Any, max_tokens: int, short_seq_prob: float, cross: bool) -> Any:
    most = len(docs.token_offsets) - 1 + docs.token_offsets[-1] // max_tokens + 1
    sequences = np.empty(most, SEQUENCE)
    num_sequences = start = length = separators = 0
    target = np.int64(0)
    key = np.uint64(0)
    for place in range(len(docs.order)):
        document = docs.order[place]
        number = FIRST_CHUNK
        own_target = target_length(docs.keys[document], max_tokens, short_seq_prob)
        first, last = docs.sentence_offsets[document], docs.sentence_offsets[document + 1]
        for i in range(first, last):
            separated = 1 if cross and i == first and place > 0 else 0
            at, left = docs.token_offsets[i] + separated, docs.token_offsets[i + 1] - docs.token_offsets[i] - separated
            if length > 0 and length + separated + left <= target and (cross or i > first):
                length += separated + left
                separators += separated
                continue
            if length > 0:
                _put(sequences[num_sequences], start, length, key)
                num_sequences += 1
            while left > max_tokens:
                _put(sequences[num_sequences], at, max_tokens, stream(docs.keys[document], number))
                num_sequences, number, at, left = num_sequences + 1, number + 1, at + max_tokens, left - max_tokens
            key = stream(docs.keys[document], number)
            number += 1
            start, length, target = at, left, own_target
    if length > 0:
        _put(sequences[num_sequences], start, length, key)
        num_sequences += 1
    return sequences[:num_sequences], separators


@compiled
def _put(sequence: Any, start: int, length: int, key: Any) -> None:
    sequence.a_start, sequence.a_length, sequence.b_start, sequence.b_length = start, length, 0, 0
    sequence.key, sequence.label, sequence.forced = key, 0, False

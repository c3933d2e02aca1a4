"""Sentences of documents -> sequences `[CLS] A [SEP] B [SEP]`, as indices into the flat token ids."""

from typing import Any

import numpy as np
import numpy.typing as npt

from prep.pairing.sequences import FIRST_CHUNK, Sequences, target_length
from prep.records import Tally
from shards.compiled import compiled
from shards.randomness import below, combine, draw, fraction
from shards.schema import Offsets

ATTEMPTS = 10
"""How often a random next segment is drawn before the pair is dropped."""
_IS_NEXT, _NOT_NEXT = 0, 1


def pair_next_sentence(
    order: npt.NDArray[np.int64],
    document_sentences: Offsets,
    sentence_tokens: Offsets,
    ids: npt.NDArray[Any],
    hashes: npt.NDArray[np.uint64],
    keys: npt.NDArray[np.uint64],
    max_tokens: int,
    short_seq_prob: float,
) -> tuple[Sequences, Tally]:
    """Next-sentence pairs as in BERT's `create_instances_from_document` (Devlin et al. 2019, google-research/bert).

    Documents are taken in `order`, and random ones drawn from its places; `keys[d]` is the stream of document d. A pair has
    at most `max_tokens` tokens, special ones not counted. Two
    repairs: a random next segment never comes from the same document nor from one with the same content, and never equals
    the true continuation. It is drawn again up to ATTEMPTS times, then the pair is dropped and its segment A is unpaired.
    """
    *columns, tally = _pair(order, document_sentences, sentence_tokens, ids, hashes, keys, max_tokens, short_seq_prob)
    return Sequences(*columns), Tally(*(int(count) for count in tally))


@compiled
def truncate(key: Any, a_length: int, b_length: int, max_tokens: int) -> tuple[int, int, int, int]:
    """Shortens the longer segment (B when they tie) token by token, at the front or the back at random.

    Returns the tokens cut from A's front, A's length, those cut from B's front, B's length.
    """
    a_front = b_front = 0
    index = 2  # draws 0 and 1 of the stream choose the random segment
    while a_length + b_length > max_tokens:
        front = 1 if fraction(draw(key, np.uint64(index))) < 0.5 else 0
        if a_length > b_length:
            a_length -= 1
            a_front += front
        else:
            b_length -= 1
            b_front += front
        index += 1
    return a_front, a_length, b_front, b_length


@compiled
def agrees(ids: Any, start: int, stop: int, other: int, length: int) -> bool:
    """Whether ids[start:stop] and ids[other:other + length] are the same as far as both go, and not empty."""
    shared = min(stop - start, length)
    for i in range(shared):  # numba compiles no generator into `all`
        if ids[start + i] != ids[other + i]:
            return False
    return shared > 0


@compiled
def _draw_negative(
    key: Any,
    document: int,
    a_start: int,
    a_length: int,
    target: Any,
    max_tokens: int,
    order: Any,
    document_sentences: Any,
    sentence_tokens: Any,
    ids: Any,
    hashes: Any,
) -> tuple[int, int, int, int, int]:
    """A random next segment for segment A of a document, both truncated.

    Returns how many were rejected (ATTEMPTS: all were), the tokens cut from A's front, A's length, B's start and length.
    """
    document_end = sentence_tokens[document_sentences[document + 1]]
    for attempt in range(ATTEMPTS):
        attempt_key = combine(key, np.uint64(attempt))
        other = order[np.int64(below(draw(attempt_key, np.uint64(0)), np.uint64(len(order))))]
        if hashes[other] == hashes[document]:
            continue
        first, last = document_sentences[other], document_sentences[other + 1]
        b_first = first + np.int64(below(draw(attempt_key, np.uint64(1)), np.uint64(last - first)))
        b_end = b_first + 1
        while b_end < last and sentence_tokens[b_end] - sentence_tokens[b_first] < target - a_length:
            b_end += 1
        b_full = sentence_tokens[b_end] - sentence_tokens[b_first]
        a_front, a_kept, b_front, b_length = truncate(attempt_key, a_length, b_full, max_tokens)
        b_start = sentence_tokens[b_first] + b_front
        continues_a = agrees(ids, a_start + a_front + a_kept, document_end, b_start, b_length)
        if continues_a or agrees(ids, a_start + a_length + b_front, document_end, b_start, b_length):
            continue
        return attempt, a_front, a_kept, b_start, b_length
    return ATTEMPTS, 0, a_length, 0, 0


@compiled
def _pair(
    order: Any,
    document_sentences: Any,
    sentence_tokens: Any,
    ids: Any,
    hashes: Any,
    keys: Any,
    max_tokens: int,
    short_seq_prob: float,
) -> Any:
    most = len(sentence_tokens) - 1  # every sequence uses up a sentence
    a_starts, a_lengths = np.empty(most, np.int64), np.empty(most, np.int64)
    b_starts, b_lengths = np.empty(most, np.int64), np.empty(most, np.int64)
    labels, forced = np.empty(most, np.uint8), np.empty(most, np.bool_)
    sequence_keys = np.empty(most, np.uint64)
    made = placed = truncated = unpaired = negatives = redrawn = dropped = filled = 0

    for document in order:
        first, last = document_sentences[document], document_sentences[document + 1]
        made += sentence_tokens[last] - sentence_tokens[first]
        target = target_length(keys[document], max_tokens, short_seq_prob)
        chunk_start, chunk_number, i = first, FIRST_CHUNK, first
        while i < last:
            chunk_length = sentence_tokens[i + 1] - sentence_tokens[chunk_start]
            if i < last - 1 and chunk_length < target:
                i += 1
                continue
            key = combine(keys[document], np.uint64(chunk_number))
            num_segments = i + 1 - chunk_start
            a_end = chunk_start + 1
            if num_segments >= 2:
                a_end += np.int64(below(draw(key, np.uint64(0)), np.uint64(num_segments - 1)))
            a_start, a_stop = sentence_tokens[chunk_start], sentence_tokens[a_end]
            a_full = a_stop - a_start
            if num_segments == 1 or fraction(draw(key, np.uint64(1))) < 0.5:
                label = _NOT_NEXT
                i = a_end - 1  # segments not used go back
                rejected, a_front, a_length, b_start, b_length = _draw_negative(
                    key, document, a_start, a_full, target, max_tokens, order, document_sentences, sentence_tokens, ids, hashes
                )
                accepted = rejected < ATTEMPTS
                redrawn += rejected
                negatives += b_length
            else:
                label = _IS_NEXT
                accepted = True
                b_full = sentence_tokens[i + 1] - a_stop
                a_front, a_length, b_front, b_length = truncate(key, a_full, b_full, max_tokens)
                b_start = a_stop + b_front
                placed += b_length
                truncated += b_full - b_length
            if accepted:
                placed += a_length
                truncated += a_full - a_length
                a_starts[filled], a_lengths[filled] = a_start + a_front, a_length
                b_starts[filled], b_lengths[filled] = b_start, b_length
                labels[filled], forced[filled] = label, num_segments == 1
                sequence_keys[filled] = key
                filled += 1
            else:
                dropped += 1
                unpaired += a_full
            chunk_number += 1
            i += 1
            chunk_start = i

    return (
        a_starts[:filled],
        a_lengths[:filled],
        b_starts[:filled],
        b_lengths[:filled],
        labels[:filled],
        forced[:filled],
        sequence_keys[:filled],
        (made, placed, truncated, unpaired, negatives, redrawn, dropped),
    )

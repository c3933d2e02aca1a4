"""The tutorials' next-sentence pairs: one a paragraph, its second sentence half of the time one of the whole bag."""

from typing import Any

import numpy as np
import numpy.typing as npt

from prep.pairing.nsp import ATTEMPTS, agrees
from prep.pairing.sequences import Sequences
from prep.records import Tally
from shards.compiled import compiled
from shards.randomness import below, combine, draw, fraction
from shards.schema import Offsets

_PAIR = 2  # the id of the pair's stream below its document's, as of the first chunk of the other pairings


def pair_paragraphs(
    order: npt.NDArray[np.int64],
    document_sentences: Offsets,
    sentence_tokens: Offsets,
    ids: npt.NDArray[Any],
    keys: npt.NDArray[np.uint64],
    max_tokens: int,
) -> tuple[Sequences, Tally]:
    """One pair of sentences a document, as notebooks make them from paragraphs split at full stops.

    A is a random sentence but the last; B the one behind it or, with probability 1/2, any sentence of the share's bag (of the
    same document too), drawn again up to ATTEMPTS times where it is A, or is or reads like the true next one. A document of
    one sentence gives no pair. Pairs that are too long lose tokens at the ends of their segments, the longer one first, as
    `longest_first` of `tokenizers` has it.
    """
    segments, labels, keys, tally = _pair(order, document_sentences, sentence_tokens, ids, keys, max_tokens)
    sequences = Sequences._make((*segments, labels, np.zeros(len(keys), np.bool_), keys))
    return sequences, Tally(*(int(count) for count in tally))


@compiled
def truncate_longest(a_length: int, b_length: int, max_tokens: int) -> tuple[int, int]:
    """The lengths that are kept: the longer is cut to the shorter, then both to halves of `max_tokens` (B's the larger)."""
    if a_length + b_length <= max_tokens:
        return a_length, b_length
    short = min(a_length, b_length)
    if 2 * short >= max_tokens:
        half = max_tokens // 2
        return (half, max_tokens - half) if a_length <= b_length else (max_tokens - half, half)
    return (short, max_tokens - short) if a_length <= b_length else (max_tokens - short, short)


@compiled
def _pair(order: Any, document_sentences: Any, sentence_tokens: Any, ids: Any, keys: Any, max_tokens: int) -> Any:
    most, bag = len(order), len(sentence_tokens) - 1
    a_starts, a_lengths = np.empty(most, np.int64), np.empty(most, np.int64)
    b_starts, b_lengths = np.empty(most, np.int64), np.empty(most, np.int64)
    labels, sequence_keys = np.empty(most, np.uint8), np.empty(most, np.uint64)
    made = placed = truncated = unpaired = negatives = redrawn = dropped = filled = 0

    for document in order:
        first, last = document_sentences[document], document_sentences[document + 1]
        tokens = sentence_tokens[last] - sentence_tokens[first]
        made += tokens
        if last - first < 2:
            unpaired += tokens
            continue
        key = combine(keys[document], np.uint64(_PAIR))
        a = first + np.int64(below(draw(key, np.uint64(0)), np.uint64(last - first - 1)))
        a_full = sentence_tokens[a + 1] - sentence_tokens[a]
        b, label = a + 1, 0
        if fraction(draw(key, np.uint64(1))) < 0.5:
            next_start, next_stop = sentence_tokens[a + 1], sentence_tokens[a + 2]
            for attempt in range(ATTEMPTS):
                b = np.int64(below(draw(key, np.uint64(2 + attempt)), np.uint64(bag)))
                length = sentence_tokens[b + 1] - sentence_tokens[b]
                like_next = length == next_stop - next_start and agrees(ids, next_start, next_stop, sentence_tokens[b], length)
                if b != a and not like_next:
                    label = 1
                    break
                redrawn += 1
            if label == 0:
                dropped += 1
                unpaired += tokens
                continue
        b_full = sentence_tokens[b + 1] - sentence_tokens[b]
        a_length, b_length = truncate_longest(a_full, b_full, max_tokens)
        placed += a_length
        truncated += a_full - a_length
        unpaired += tokens - a_full
        if label == 1:
            negatives += b_length
        else:
            placed += b_length
            truncated += b_full - b_length
            unpaired -= b_full
        a_starts[filled], a_lengths[filled] = sentence_tokens[a], a_length
        b_starts[filled], b_lengths[filled] = sentence_tokens[b], b_length
        labels[filled], sequence_keys[filled] = label, key
        filled += 1

    return (
        (a_starts[:filled], a_lengths[:filled], b_starts[:filled], b_lengths[:filled]),
        labels[:filled],
        sequence_keys[:filled],
        (made, placed, truncated, unpaired, negatives, redrawn, dropped),
    )

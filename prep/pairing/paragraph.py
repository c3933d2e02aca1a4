"""The tutorials' next-sentence pairs: one per paragraph, its second sentence half of the time one of the whole bag."""

from typing import Any

import numpy as np

from prep.pairing.nsp import ATTEMPTS, IS_NEXT, NOT_NEXT
from prep.pairing.sequences import FIRST_CHUNK, SEQUENCE, Docs, Sequences, agrees, as_columns
from prep.pairing.truncation import truncate_longest
from prep.tally import Tally
from shards.compiled import compiled
from shards.randomness import draw_below, draw_fraction, stream

# Draws of the pair's stream, by number. The attempts at a random B take one each, from FIRST_ATTEMPT on.
A, IS_RANDOM, FIRST_ATTEMPT = 0, 1, 2


def pair_paragraphs(docs: Docs, max_tokens: int) -> tuple[Sequences, Tally]:
    """One pair of sentences per document, as notebooks make them from paragraphs split at full stops.

    A is a random sentence but the last. B is the one after it or, with probability 1/2, any sentence of the bag, which is
    all of `docs` (the same document too). B is drawn again up to ATTEMPTS times where it is A itself, or is or reads like
    the true next one. A document of one sentence gives no pair. A pair of more than `max_tokens` tokens loses tokens at the
    ends of its segments. Returns S sequences with labels (0: B follows A, 1: it does not), and what became of the tokens.
    """
    filled, tally = _pair(docs, max_tokens)
    return as_columns(filled, labelled=True), Tally(*(int(count) for count in tally))


@compiled
def _pair(docs: Any, max_tokens: int) -> Any:
    pairs = np.empty(len(docs.order), SEQUENCE)
    made = placed = truncated = unpaired = negatives = redrawn = dropped = num_pairs = 0
    for document in docs.order:
        first, last = docs.sentence_offsets[document], docs.sentence_offsets[document + 1]
        tokens = docs.token_offsets[last] - docs.token_offsets[first]
        made += tokens
        if last - first < 2:
            unpaired += tokens
            continue
        key = stream(docs.keys[document], FIRST_CHUNK)
        a = first + draw_below(key, A, last - first - 1)
        b, label = a + 1, IS_NEXT
        if draw_fraction(key, IS_RANDOM) < 0.5:
            b, rejected = _draw_negative(docs, key, a)
            label = NOT_NEXT
            redrawn += rejected
            if rejected == ATTEMPTS:
                dropped += 1
                unpaired += tokens
                continue
        a_full = docs.token_offsets[a + 1] - docs.token_offsets[a]
        b_full = docs.token_offsets[b + 1] - docs.token_offsets[b]
        a_length, b_length = truncate_longest(a_full, b_full, max_tokens)
        placed += a_length
        truncated += a_full - a_length
        unpaired += tokens - a_full
        if label == NOT_NEXT:
            negatives += b_length
        else:
            placed += b_length
            truncated += b_full - b_length
            unpaired -= b_full
        pair = pairs[num_pairs]
        pair.a_start, pair.a_length = docs.token_offsets[a], a_length
        pair.b_start, pair.b_length = docs.token_offsets[b], b_length
        pair.key, pair.label, pair.forced = key, label, False
        num_pairs += 1
    return pairs[:num_pairs], (made, placed, truncated, unpaired, negatives, redrawn, dropped)


@compiled
def _draw_negative(docs: Any, key: Any, a: int) -> tuple[int, int]:
    """A random sentence of the bag that is not A and does not read like the sentence after it; how many were rejected."""
    next_start, next_stop = docs.token_offsets[a + 1], docs.token_offsets[a + 2]
    for attempt in range(ATTEMPTS):
        b = draw_below(key, FIRST_ATTEMPT + attempt, len(docs.token_offsets) - 1)
        start, length = docs.token_offsets[b], docs.token_offsets[b + 1] - docs.token_offsets[b]
        like_next = length == next_stop - next_start and agrees(docs.ids, next_start, next_stop, start, length)
        if b != a and not like_next:
            return b, attempt
    return a, ATTEMPTS

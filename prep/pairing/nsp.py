"""Next-sentence pairs, as BERT makes them: B is what follows A in its document, or a random piece of another one."""

from typing import Any

import numpy as np

from prep.pairing.sequences import FIRST_CHUNK, SEQUENCE, Docs, Sequences, agrees, as_columns, target_length
from prep.pairing.truncation import truncate
from prep.tally import Tally
from shards.compiled import compiled
from shards.randomness import draw_below, draw_fraction, stream

# How often a random next segment is drawn before the pair is dropped.
ATTEMPTS = 10
IS_NEXT, NOT_NEXT = 0, 1
# Draws of a chunk's stream, by number. A true pair's truncation takes those after them.
A_END, IS_RANDOM, TRUNCATION = 0, 1, 2
# Draws of an attempt's stream, which is below its chunk's: the random document and its first sentence, then the truncation.
OTHER_DOCUMENT, B_FIRST = 0, 1


def pair_next_sentence(docs: Docs, max_tokens: int, short_seq_prob: float) -> tuple[Sequences, Tally]:
    """BERT's `create_instances_from_document` (Devlin et al. 2019, arXiv:1810.04805; google-research/bert).

    Random documents are drawn from the places in `docs.order`. A pair has at most `max_tokens` tokens, special tokens not
    counted. Two repairs: a random next segment never comes from the same document nor from one with the same content, and
    it never equals the true continuation. It is drawn again up to ATTEMPTS times; then the pair is dropped, and its segment
    A is unpaired. Returns S sequences with labels (0: B follows A, 1: it does not), and what became of the tokens.
    """
    filled, tally = _pair(docs, max_tokens, short_seq_prob)
    return as_columns(filled, labelled=True), Tally(*(int(count) for count in tally))


@compiled
def _pair(docs: Any, max_tokens: int, short_seq_prob: float) -> Any:
    pairs = np.empty(len(docs.token_offsets) - 1, SEQUENCE)  # every sequence uses up a sentence
    made = placed = truncated = unpaired = negatives = redrawn = dropped = num_pairs = 0
    for document in docs.order:
        first, last = docs.sentence_offsets[document], docs.sentence_offsets[document + 1]
        made += docs.token_offsets[last] - docs.token_offsets[first]
        target = target_length(docs.keys[document], max_tokens, short_seq_prob)
        chunk_start, chunk_number, i = first, FIRST_CHUNK, first
        while i < last:
            chunk_length = docs.token_offsets[i + 1] - docs.token_offsets[chunk_start]
            if i < last - 1 and chunk_length < target:
                i += 1
                continue
            key = stream(docs.keys[document], chunk_number)
            num_segments = i + 1 - chunk_start
            a_end = chunk_start + 1
            if num_segments >= 2:
                a_end += draw_below(key, A_END, num_segments - 1)  # rng.randint(1, len(current_chunk) - 1)
            a_start, a_stop = docs.token_offsets[chunk_start], docs.token_offsets[a_end]
            a_full = a_stop - a_start
            if num_segments == 1 or draw_fraction(key, IS_RANDOM) < 0.5:
                label = NOT_NEXT
                i = a_end - 1  # segments that are not used are put back
                rejected, a_front, a_length, b_start, b_length = _draw_negative(
                    docs, key, document, a_start, a_full, target, max_tokens
                )
                redrawn += rejected
                negatives += b_length
            else:
                label, rejected = IS_NEXT, 0
                b_full = docs.token_offsets[i + 1] - a_stop
                a_front, a_length, b_front, b_length = truncate(key, TRUNCATION, a_full, b_full, max_tokens)
                b_start = a_stop + b_front
                placed += b_length
                truncated += b_full - b_length
            if rejected < ATTEMPTS:
                placed += a_length
                truncated += a_full - a_length
                pair = pairs[num_pairs]
                pair.a_start, pair.a_length = a_start + a_front, a_length
                pair.b_start, pair.b_length = b_start, b_length
                pair.key, pair.label, pair.forced = key, label, num_segments == 1
                num_pairs += 1
            else:
                dropped += 1
                unpaired += a_full
            chunk_number += 1
            i += 1
            chunk_start = i
    return pairs[:num_pairs], (made, placed, truncated, unpaired, negatives, redrawn, dropped)


@compiled
def _draw_negative(
    docs: Any, key: Any, document: int, a_start: int, a_full: int, target: Any, max_tokens: int
) -> tuple[int, int, int, int, int]:
    """A random next segment for segment A of a document, both truncated.

    Returns how many were rejected (ATTEMPTS: all were), the tokens cut from A's front, A's length, B's start and length.
    """
    document_end = docs.token_offsets[docs.sentence_offsets[document + 1]]
    for attempt in range(ATTEMPTS):
        attempt_key = stream(key, attempt)
        other = docs.order[draw_below(attempt_key, OTHER_DOCUMENT, len(docs.order))]
        if docs.hashes[other] == docs.hashes[document]:
            continue
        first, last = docs.sentence_offsets[other], docs.sentence_offsets[other + 1]
        b_first = first + draw_below(attempt_key, B_FIRST, last - first)
        b_end = b_first + 1
        while b_end < last and docs.token_offsets[b_end] - docs.token_offsets[b_first] < target - a_full:
            b_end += 1
        b_full = docs.token_offsets[b_end] - docs.token_offsets[b_first]
        a_front, a_length, b_front, b_length = truncate(attempt_key, TRUNCATION, a_full, b_full, max_tokens)
        b_start = docs.token_offsets[b_first] + b_front
        # B may read like what follows the truncated A, or like what followed A before it was truncated.
        continues_a = agrees(docs.ids, a_start + a_front + a_length, document_end, b_start, b_length)
        if continues_a or agrees(docs.ids, a_start + a_full + b_front, document_end, b_start, b_length):
            continue
        return attempt, a_front, a_length, b_start, b_length
    return ATTEMPTS, 0, a_full, 0, 0

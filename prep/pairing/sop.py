"""Sentence-order pairs, as ALBERT makes them: two consecutive segments of one document, half of them swapped."""

from typing import Any

import numpy as np

from prep.pairing.sequences import FIRST_CHUNK, SEQUENCE, Docs, Sequences, agrees, as_columns, target_length
from prep.pairing.truncation import truncate
from prep.tally import Tally
from shards.compiled import compiled
from shards.randomness import draw_below, draw_fraction, stream

IN_ORDER, SWAPPED = 0, 1
# Draws of a chunk's stream, by number. Its truncation takes those after them.
A_END, IS_SWAPPED, TRUNCATION = 0, 1, 2


def pair_sentence_order(docs: Docs, max_tokens: int, short_seq_prob: float) -> tuple[Sequences, Tally]:
    """Sentence-order prediction (Lan et al. 2020, ALBERT, arXiv:1909.11942, section 3.1), over the chunks of BERT's pairs.

    Label 1: B was before A in the document. No text of another document is ever used, so a chunk of a single sentence is
    unpaired (the published code borrows there). Equal segments are never called swapped. A pair has at most `max_tokens`
    tokens, special tokens not counted. Returns S sequences with labels, and what became of the tokens.
    """
    filled, tally = _pair(docs, max_tokens, short_seq_prob)
    made, placed, truncated, unpaired, dropped = (int(count) for count in tally)
    return as_columns(filled, labelled=True), Tally(made, placed, truncated, unpaired, 0, 0, dropped)


@compiled
def _pair(docs: Any, max_tokens: int, short_seq_prob: float) -> Any:
    pairs = np.empty(len(docs.token_offsets) - 1, SEQUENCE)  # every sequence uses up a sentence
    made = placed = truncated = unpaired = dropped = num_pairs = 0
    for document in docs.order:
        first, last = docs.sentence_offsets[document], docs.sentence_offsets[document + 1]
        made += docs.token_offsets[last] - docs.token_offsets[first]
        target = target_length(docs.keys[document], max_tokens, short_seq_prob)
        chunk_start, chunk_number = first, FIRST_CHUNK
        for i in range(first, last):
            start, stop = docs.token_offsets[chunk_start], docs.token_offsets[i + 1]
            if i < last - 1 and stop - start < target:
                continue
            num_segments = i + 1 - chunk_start
            if num_segments == 1:
                unpaired += stop - start
                dropped += 1
            else:
                key = stream(docs.keys[document], chunk_number)
                middle = docs.token_offsets[chunk_start + 1 + draw_below(key, A_END, num_segments - 1)]
                a_start, a_full, b_start, b_full = start, middle - start, middle, stop - middle
                equal = a_full == b_full and agrees(docs.ids, a_start, middle, b_start, b_full)
                swapped = not equal and draw_fraction(key, IS_SWAPPED) < 0.5
                if swapped:
                    a_start, a_full, b_start, b_full = b_start, b_full, a_start, a_full
                a_front, a_length, b_front, b_length = truncate(key, TRUNCATION, a_full, b_full, max_tokens)
                placed += a_length + b_length
                truncated += a_full - a_length + b_full - b_length
                pair = pairs[num_pairs]
                pair.a_start, pair.a_length = a_start + a_front, a_length
                pair.b_start, pair.b_length = b_start + b_front, b_length
                pair.key, pair.label, pair.forced = key, SWAPPED if swapped else IN_ORDER, False
                num_pairs += 1
            chunk_start = i + 1
            chunk_number += 1
    return pairs[:num_pairs], (made, placed, truncated, unpaired, dropped)

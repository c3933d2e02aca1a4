"""Sentence-order pairs: two consecutive segments of one document, half of them swapped."""

from typing import Any

import numpy as np
import numpy.typing as npt

from prep.pairing.nsp import agrees, truncate
from prep.pairing.sequences import FIRST_CHUNK, Sequences, target_length
from prep.records import Tally
from shards.compiled import compiled
from shards.randomness import below, combine, draw, fraction
from shards.schema import Offsets


def pair_sentence_order(
    order: npt.NDArray[np.int64],
    document_sentences: Offsets,
    sentence_tokens: Offsets,
    ids: npt.NDArray[Any],
    keys: npt.NDArray[np.uint64],
    max_tokens: int,
    short_seq_prob: float,
) -> tuple[Sequences, Tally]:
    """Sentence-order prediction (Lan et al. 2020, ALBERT, arXiv:1909.11942, section 3.1), over the chunks of BERT's pairs.

    Label 1: B stood before A in the document. No text of another document is ever used, so a chunk of a single sentence is
    unpaired (the published code borrows there). Equal segments are never called swapped.
    """
    segments, labels, keys, tally = _pair(order, document_sentences, sentence_tokens, ids, keys, max_tokens, short_seq_prob)
    sequences = Sequences._make((*segments, labels, np.zeros(len(keys), np.bool_), keys))
    made, placed, truncated, unpaired, dropped = (int(count) for count in tally)
    return sequences, Tally(made, placed, truncated, unpaired, 0, 0, dropped)


@compiled
def _pair(
    order: Any,
    document_sentences: Any,
    sentence_tokens: Any,
    ids: Any,
    keys: Any,
    max_tokens: int,
    short_seq_prob: float,
) -> Any:
    most = len(sentence_tokens) - 1  # every sequence uses up a sentence
    a_starts, a_lengths = np.empty(most, np.int64), np.empty(most, np.int64)
    b_starts, b_lengths = np.empty(most, np.int64), np.empty(most, np.int64)
    labels, sequence_keys = np.empty(most, np.uint8), np.empty(most, np.uint64)
    made = placed = truncated = unpaired = dropped = filled = 0

    for document in order:
        first, last = document_sentences[document], document_sentences[document + 1]
        made += sentence_tokens[last] - sentence_tokens[first]
        target = target_length(keys[document], max_tokens, short_seq_prob)
        chunk_start, chunk_number = first, FIRST_CHUNK
        for i in range(first, last):
            start, stop = sentence_tokens[chunk_start], sentence_tokens[i + 1]
            if i < last - 1 and stop - start < target:
                continue
            num_segments = i + 1 - chunk_start
            if num_segments == 1:
                unpaired += stop - start
                dropped += 1
            else:
                key = combine(keys[document], np.uint64(chunk_number))
                split = chunk_start + 1 + np.int64(below(draw(key, np.uint64(0)), np.uint64(num_segments - 1)))
                middle = sentence_tokens[split]
                a_start, a_full, b_start, b_full = start, middle - start, middle, stop - middle
                equal = a_full == b_full and agrees(ids, a_start, middle, b_start, b_full)
                swapped = not equal and fraction(draw(key, np.uint64(1))) < 0.5
                if swapped:
                    a_start, a_full, b_start, b_full = b_start, b_full, a_start, a_full
                a_front, a_length, b_front, b_length = truncate(key, a_full, b_full, max_tokens)
                placed += a_length + b_length
                truncated += a_full - a_length + b_full - b_length
                a_starts[filled], a_lengths[filled] = a_start + a_front, a_length
                b_starts[filled], b_lengths[filled] = b_start + b_front, b_length
                labels[filled], sequence_keys[filled] = 1 if swapped else 0, key
                filled += 1
            chunk_start = i + 1
            chunk_number += 1

    return (
        (a_starts[:filled], a_lengths[:filled], b_starts[:filled], b_lengths[:filled]),
        labels[:filled],
        sequence_keys[:filled],
        (made, placed, truncated, unpaired, dropped),
    )

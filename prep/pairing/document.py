"""Sequences of whole documents, as encoders since 2024 are trained on: one segment, no pair task, nothing lost.

A document that is longer than a sequence is cut into pieces; a shorter one is a sequence, and rows are packed with others.
"""

import numpy as np

from prep.pairing.sequences import FIRST_CHUNK, Docs, Sequences
from prep.tally import Tally
from shards.randomness import combine
from shards.schema import lengths_to_offsets


def cut_documents(docs: Docs, max_tokens: int, overlap: int) -> tuple[Sequences, Tally]:
    """Pieces of at most `max_tokens` tokens, in order; each begins `overlap` tokens before the end of the one before it.

    With an overlap of 0 the pieces of a document, joined, are the document. `overlap` must be below `max_tokens`.
    """
    edges = docs.token_offsets[docs.sentence_offsets]
    starts, lengths = edges[:-1][docs.order], np.diff(edges)[docs.order]
    step = max_tokens - overlap
    # The last piece is the first one that reaches the end of the document.
    num_pieces = 1 + np.maximum(0, -(-(lengths - max_tokens) // step))
    document = np.repeat(np.arange(len(lengths)), num_pieces)
    number = np.arange(len(document)) - lengths_to_offsets(num_pieces)[document]
    before = number * step
    piece_lengths = np.minimum(max_tokens, lengths[document] - before)
    none = np.zeros(len(document), np.int64)
    sequences = Sequences(
        a_starts=starts[document] + before,
        a_lengths=piece_lengths,
        b_starts=none,
        b_lengths=none,
        labels=None,
        forced=np.zeros(len(document), np.bool_),
        keys=combine(docs.keys[docs.order][document], (number + FIRST_CHUNK).astype(np.uint64)),
    )
    made = int(edges[-1])
    return sequences, Tally(made, made, 0, 0, 0, 0, 0, repeated=int(piece_lengths.sum()) - made)

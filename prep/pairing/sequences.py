"""What every pairing takes and returns: documents, and sequences of one or two segments as indices into flat token ids."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from shards.compiled import compiled
from shards.randomness import draw_below, draw_fraction
from shards.schema import Ints, Offsets

# Draws of a document's stream, by number.
IS_SHORT, SHORT_LENGTH = 0, 1
# Streams below a document's, by number: the first chunk comes after the two draws above, so that no address serves twice.
FIRST_CHUNK = 2

# One sequence, as a compiled loop fills it: places and lengths in tokens, and the key for draws that concern the sequence.
SEQUENCE = np.dtype(
    [
        ("a_start", np.int64),
        ("a_length", np.int64),
        ("b_start", np.int64),
        ("b_length", np.int64),
        ("key", np.uint64),
        ("label", np.uint8),
        ("forced", np.bool_),
    ],
    align=True,  # compiled code reads and writes aligned fields faster
)


class Docs(NamedTuple):
    """D documents of S sentences of T tokens, with their places in the shuffle: one argument of a compiled loop."""

    order: npt.NDArray[np.int64]  # [D] the documents as they follow each other
    sentence_offsets: Offsets  # [D + 1] document d has the sentences [offsets[d], offsets[d + 1])
    token_offsets: Offsets  # [S + 1] sentence s has the tokens [offsets[s], offsets[s + 1])
    ids: Ints  # [T]
    hashes: npt.NDArray[np.uint64]  # [D] of the content
    keys: npt.NDArray[np.uint64]  # [D] the stream of each document


class Sequences(NamedTuple):
    """S sequences. Segment A is ids[a_starts:a_starts + a_lengths], B likewise (length 0: there is none); nothing is copied."""

    a_starts: npt.NDArray[np.int64]
    a_lengths: npt.NDArray[np.int64]
    b_starts: npt.NDArray[np.int64]
    b_lengths: npt.NDArray[np.int64]
    labels: npt.NDArray[np.uint8] | None  # 0: B is what follows A, 1: it is not; None where there is no pair task
    forced: npt.NDArray[np.bool_]  # 1 because there was no choice
    keys: npt.NDArray[np.uint64]  # of the sequence, for draws that concern it

    def lengths(self, num_special: int) -> npt.NDArray[np.int64]:
        """[S] tokens of each sequence, special tokens counted."""
        return self.a_lengths + self.b_lengths + num_special


def as_columns(filled: npt.NDArray[Any], labelled: bool) -> Sequences:
    """The columns of an array of SEQUENCE [S]; without labels if the recipe has no pairs."""
    a_starts, a_lengths, b_starts, b_lengths, keys, labels, forced = (
        np.ascontiguousarray(filled[name]) for name in SEQUENCE.names or ()
    )
    return Sequences(a_starts, a_lengths, b_starts, b_lengths, labels if labelled else None, forced, keys)


@compiled
def target_length(key: Any, max_tokens: int, short_seq_prob: float) -> Any:
    """The tokens that the sequences of a document aim at: `max_tokens` or, now and then, a random shorter length."""
    if draw_fraction(key, IS_SHORT) < short_seq_prob:
        return 2 + draw_below(key, SHORT_LENGTH, max_tokens - 1)
    return np.int64(max_tokens)


@compiled
def agrees(ids: Any, start: int, stop: int, other: int, length: int) -> bool:
    """Whether ids[start:stop] and ids[other:other + length] are the same as far as both go, and not empty."""
    shared = min(stop - start, length)
    for i in range(shared):  # numba compiles no generator into `all`
        if ids[start + i] != ids[other + i]:
            return False
    return shared > 0

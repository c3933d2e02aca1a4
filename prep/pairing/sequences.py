"""What every pairing makes of documents: sequences of one or two segments, as indices into flat token ids."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from shards.compiled import compiled
from shards.randomness import below, draw, fraction

FIRST_CHUNK = 2
"""Of the streams below a document's, by number: 0 and 1 are the draws of its target length."""


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


@compiled
def target_length(key: Any, max_tokens: int, short_seq_prob: float) -> Any:
    """The tokens that the sequences of a document aim at: the most there may be or, now and then, a random shorter length."""
    if fraction(draw(key, np.uint64(0))) < short_seq_prob:
        return 2 + np.int64(below(draw(key, np.uint64(1)), np.uint64(max_tokens - 1)))
    return np.int64(max_tokens)

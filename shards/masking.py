"""Masked-language-model masking of rows: static when a shard is written, dynamic when it is read."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.compiled import compiled
from shards.randomness import below, draw, fraction
from shards.schema import Ints, Rows, lengths_to_offsets

MASK_SHARE = 0.8
RANDOM_SHARE = 0.1


@dataclass(frozen=True)
class Masking:
    """The rule of Devlin et al. 2019 (arXiv:1810.04805, section 3.1) for one tokenizer.

    Of a sequence of n tokens, special ones counted, `max(1, round(probability * n))` ordinary tokens are selected,
    `round` half to even as in the published code, or all where there are fewer. Of those 80 % become [MASK], 10 % a random
    ordinary token and 10 % stay. Special tokens are never selected and never inserted.
    """

    probability: float
    vocab_size: int
    special_ids: tuple[int, ...]
    mask_id: int

    @cached_property
    def is_special(self) -> npt.NDArray[np.bool_]:
        """[vocab_size]: whether an id is a special token."""
        table = np.zeros(self.vocab_size, np.bool_)
        table[list(self.special_ids)] = True
        return table

    @cached_property
    def ordinary_ids(self) -> npt.NDArray[np.uint32]:
        """Every id that is not special, ascending."""
        return np.flatnonzero(~self.is_special).astype(np.uint32)

    def counts(self, max_length: int) -> npt.NDArray[np.int64]:
        """[max_length + 1]: how many tokens of a sequence of that length are selected, if it has so many ordinary ones."""
        return np.array([max(1, round(self.probability * length)) for length in range(max_length + 1)], np.int64)


def mask_rows(rows: Rows, sequence_keys: npt.NDArray[np.uint64], masking: Masking) -> Rows:
    """`rows`, which must be unmasked, with masks drawn from the stream `sequence_keys[s]` of each sequence.

    What a sequence has masked depends on its tokens and its key only, so not on the row it was packed into.
    """
    starts = rows.sequence_starts()
    longest = int(rows.sequence_lengths.max(initial=0))
    input_ids = rows.input_ids.copy()
    indices, per_sequence = _mask_sequences(
        input_ids, starts, sequence_keys, masking.counts(longest), masking.is_special, masking.ordinary_ids, masking.mask_id
    )
    masked_offsets = lengths_to_offsets(per_sequence)[rows.sequence_offsets]
    row_starts = np.repeat(rows.token_offsets[:-1], np.diff(masked_offsets))
    return replace(
        rows,
        input_ids=input_ids,
        masked_offsets=masked_offsets,
        masked_positions=(indices - row_starts).astype(np.uint16),
        masked_labels=rows.input_ids[indices],
    )


def unmask_rows(rows: Rows) -> Rows:
    """`rows` with every masked token put back, and no mask columns."""
    if rows.masked_labels is None:
        return rows
    input_ids = rows.input_ids.copy()
    input_ids[rows.masked_indices()] = rows.masked_labels
    return replace(rows, input_ids=input_ids, masked_offsets=None, masked_positions=None, masked_labels=None)


@compiled
def _mask_sequences(
    ids: Ints,
    starts: Any,
    keys: Any,
    counts: Any,
    is_special: Any,
    ordinary_ids: Any,
    mask_id: int,
) -> tuple[Any, Any]:
    """Masks `ids` in place; returns the selected indices, ascending, and their number in each sequence."""
    num_sequences = len(starts) - 1
    selected = np.empty(len(ids), np.int64)
    per_sequence = np.zeros(num_sequences, np.int64)
    candidates = np.empty(len(counts), np.int64)
    filled = 0
    for s in range(num_sequences):
        num_candidates = 0
        for i in range(starts[s], starts[s + 1]):
            if not is_special[ids[i]]:
                candidates[num_candidates] = i
                num_candidates += 1
        count = min(counts[starts[s + 1] - starts[s]], num_candidates)
        for j in range(count):  # the first `count` places of a Fisher-Yates shuffle
            k = j + np.int64(below(draw(keys[s], np.uint64(j)), np.uint64(num_candidates - j)))
            candidates[j], candidates[k] = candidates[k], candidates[j]
        chosen = np.sort(candidates[:count])
        for j in range(count):
            i = chosen[j]
            action = fraction(draw(keys[s], np.uint64(count + 2 * j)))
            if action < MASK_SHARE:
                ids[i] = mask_id
            elif action < MASK_SHARE + RANDOM_SHARE:
                bits = draw(keys[s], np.uint64(count + 2 * j + 1))
                ids[i] = ordinary_ids[np.int64(below(bits, np.uint64(len(ordinary_ids))))]
            selected[filled] = i
            filled += 1
        per_sequence[s] = count
    return selected[:filled].copy(), per_sequence

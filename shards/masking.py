"""Masked-language-model masking of rows: static when a shard is written, dynamic when it is read."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.compiled import compiled
from shards.mask_units import SPAN_SLACK, select_spans, select_tokens, select_words
from shards.randomness import below, draw, fraction
from shards.schema import Ints, Rows, lengths_to_offsets


@dataclass(frozen=True)
class Masking:
    """The rule of Devlin et al. 2019 (arXiv:1810.04805, section 3.1) for one tokenizer, with words and spans beside tokens.

    Of a sequence of n tokens, special ones counted, `max(1, round(probability * n))` ordinary tokens are selected,
    `round` half to even as in the published code, or all where there are fewer. Whole words are selected while they fit
    into that number; spans of words come to `probability * n` tokens in the mean. Of what is selected, `mask_share` becomes
    [MASK], `random_share` a random ordinary token, and the rest stays: token by token, and for spans span by span (Joshi et
    al. 2020, arXiv:1907.10529, section 3.1). Special tokens are never selected and never inserted.
    `word_flags` [vocab_size] says which ids start or end a word (`mask_units`); words and spans need it.
    """

    probability: float
    vocab_size: int
    special_ids: tuple[int, ...]
    mask_id: int
    unit: str = "token"
    mask_share: float = 0.8
    random_share: float = 0.1
    word_flags: npt.NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)

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

    @property
    def slack(self) -> int:
        """How many tokens more than its count a sequence may have selected."""
        return SPAN_SLACK if self.unit == "span" else 0

    def most(self, tokens: int, sequences: int) -> int:
        """The most tokens that may be selected of `tokens` in so many sequences."""
        return min(tokens, int(self.probability * tokens) + sequences * (1 + self.slack))


def mask_rows(rows: Rows, sequence_keys: npt.NDArray[np.uint64], masking: Masking) -> Rows:
    """`rows`, which must be unmasked, with masks drawn from the stream `sequence_keys[s]` of each sequence.

    What a sequence has masked depends on its tokens and its key only, so not on the row it was packed into.
    """
    starts = rows.sequence_starts()
    longest = int(rows.sequence_lengths.max(initial=0))
    flags = masking.word_flags
    assert masking.unit == "token" or flags is not None, "words and spans need word flags"
    given = (rows.input_ids, starts, sequence_keys, masking.counts(longest), masking.is_special)
    if masking.unit == "span":
        indices, per_sequence, next_draws = select_spans(*given, flags, masking.probability)
    elif masking.unit == "word":
        indices, per_sequence, next_draws = select_words(*given, flags)
    else:
        indices, per_sequence, next_draws = select_tokens(*given)
    input_ids = rows.input_ids.copy()
    _replace(
        input_ids,
        indices,
        per_sequence,
        sequence_keys,
        next_draws,
        masking.unit == "span",
        masking.mask_share,
        masking.mask_share + masking.random_share,
        masking.mask_id,
        masking.ordinary_ids,
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
def _replace(
    ids: Ints,
    indices: Any,
    per_sequence: Any,
    keys: Any,
    next_draws: Any,
    by_spans: bool,
    mask_below: float,
    random_below: float,
    mask_id: int,
    ordinary_ids: Any,
) -> None:
    """Replaces the selected `ids` in place: each by a draw of its own, or all of a span by the draw of its first token."""
    at = 0
    for s in range(len(keys)):
        leader = 0
        for j in range(per_sequence[s]):
            i = indices[at + j]
            if not by_spans or (j > 0 and i != indices[at + j - 1] + 1):
                leader = j
            action = fraction(draw(keys[s], np.uint64(next_draws[s] + 2 * leader)))
            if action < mask_below:
                ids[i] = mask_id
            elif action < random_below:
                bits = draw(keys[s], np.uint64(next_draws[s] + 2 * j + 1))
                ids[i] = ordinary_ids[np.int64(below(bits, np.uint64(len(ordinary_ids))))]
        at += per_sequence[s]

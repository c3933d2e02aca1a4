"""Masked-language-model masking of rows: static when a shard is written, dynamic when it is read."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from shards.compiled import compiled
from shards.mask_spans import SPAN_SLACK, select_spans
from shards.mask_units import Unmasked, select_ngrams, select_tokens, select_words
from shards.randomness import draw_below, draw_fraction
from shards.schema import Ints, MaskUnit, Rows, lengths_to_offsets

_SELECT = {"token": select_tokens, "word": select_words, "ngram": select_ngrams, "span": select_spans}


@dataclass(frozen=True)
class Masking:
    """The rule of Devlin et al. 2019 (arXiv:1810.04805, section 3.1) for one tokenizer, by tokens, words, n-grams or spans.

    A sequence of n tokens, special ones included, has a count: `max(1, round(probability * n))`, with `round` half to even as
    in the published code. The unit says what is selected:

    * token: that many ordinary tokens, or all if there are fewer.
    * word: whole words while they fit into the count.
    * ngram: n-grams of 1 to 3 words while they fit into the count (Lan et al. 2020, arXiv:1909.11942, section 4.1).
    * span: spans of words, `probability * n` tokens on average (Joshi et al. 2020, arXiv:1907.10529, section 3.1).

    Of what is selected, `mask_share` becomes [MASK], `random_share` a random ordinary token, and the rest stays. Each token is
    replaced by itself, but all of a span alike. Special tokens are never selected and never inserted.
    """

    probability: float
    vocab_size: int
    special_ids: tuple[int, ...]  # and ids that no token has, if the vocabulary has gaps
    mask_id: int
    unit: MaskUnit = "token"
    mask_share: float = 0.8
    random_share: float = 0.1
    # [vocab_size]: which ids start or end a word (`mask_units`). All units but token need it.
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
        """[max_length + 1]: the count of a sequence of n tokens."""
        return np.array([max(1, round(self.probability * length)) for length in range(max_length + 1)], np.int64)

    @property
    def slack(self) -> int:
        """How many selected tokens a sequence may have above its count."""
        return SPAN_SLACK if self.unit == "span" else 0

    def most(self, tokens: int, sequences: int) -> int:
        """The maximum number of selected tokens, of `tokens` in that many sequences."""
        return min(tokens, int(self.probability * tokens) + sequences * (1 + self.slack))


def mask_rows(rows: Rows, sequence_keys: npt.NDArray[np.uint64], masking: Masking) -> Rows:
    """`rows`, which must be unmasked, with masks drawn from the stream `sequence_keys[s]` of each sequence.

    The masks of a sequence depend on its tokens and its key only, so not on the row that it was packed into.
    """
    longest = int(rows.sequence_lengths.max(initial=0))
    flags = masking.word_flags if masking.unit != "token" else np.zeros(0, np.uint8)
    assert flags is not None, f"unit {masking.unit} needs word flags"
    unmasked = Unmasked(
        rows.input_ids,
        rows.sequence_starts(),
        sequence_keys,
        masking.counts(longest),
        masking.probability,
        masking.is_special,
        flags,
    )
    selection = _SELECT[masking.unit](unmasked)
    input_ids = rows.input_ids.copy()
    rule = _Replacement(
        masking.unit == "span",
        masking.mask_share,
        masking.mask_share + masking.random_share,
        masking.mask_id,
        masking.ordinary_ids,
    )
    row_starts = np.repeat(rows.token_offsets[:-1], np.diff(rows.sequence_offsets))
    positions, labels = _replace(input_ids, sequence_keys, row_starts, selection, rule)
    return replace(
        rows,
        input_ids=input_ids,
        masked_offsets=lengths_to_offsets(selection.per_sequence)[rows.sequence_offsets],
        masked_positions=positions,
        masked_labels=labels,
    )


def unmask_rows(rows: Rows) -> Rows:
    """`rows` with every masked token put back, and no mask columns."""
    if rows.masked_labels is None:
        return rows
    input_ids = rows.input_ids.copy()
    input_ids[rows.masked_indices()] = rows.masked_labels
    return replace(rows, input_ids=input_ids, masked_offsets=None, masked_positions=None, masked_labels=None)


class _Replacement(NamedTuple):
    """What becomes of a selected token, by a draw from [0, 1)."""

    spans_alike: Any  # bool: all of a span by the draw of its first token
    mask_below: Any  # float: [MASK] for a draw below it,
    random_below: Any  # float: a random ordinary token for one below this, and else the token itself
    mask_id: Any  # int
    ordinary_ids: Any  # uint32 [number of ordinary ids]


@compiled
def _replace(ids: Ints, keys: Any, row_starts: Any, selection: Any, rule: Any) -> Any:
    """Replaces the selected `ids` in place. Token j of a sequence has two draws: what becomes of it, and the random token.

    `row_starts` [S]: where the row of each sequence begins. Returns positions in rows (uint16 [M]) and what was there [M].
    """
    positions, labels = np.empty(len(selection.places), np.uint16), np.empty(len(selection.places), ids.dtype)
    offset = 0
    for s in range(len(keys)):
        leader = 0  # the token whose draw decides
        for j in range(selection.per_sequence[s]):
            i = selection.places[offset + j]
            positions[offset + j], labels[offset + j] = i - row_starts[s], ids[i]
            if not rule.spans_alike or (j > 0 and i != selection.places[offset + j - 1] + 1):
                leader = j
            drawn = draw_fraction(keys[s], selection.next_draws[s] + 2 * leader)
            if drawn < rule.mask_below:
                ids[i] = rule.mask_id
            elif drawn < rule.random_below:
                index = draw_below(keys[s], selection.next_draws[s] + 2 * j + 1, len(rule.ordinary_ids))
                ids[i] = rule.ordinary_ids[index]
        offset += selection.per_sequence[s]
    return positions, labels

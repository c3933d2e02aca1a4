"""The gate of decoded rows, and the bounds of what decoding may allocate."""

from collections.abc import Set
from dataclasses import dataclass

import numpy as np

from shards.schema import COLUMNS, SEQUENCE_COLUMNS, TOKEN_COLUMN, Offsets, Rows, column_dtypes

MAX_SEQ_LEN = 65_535  # lengths and positions are uint16
MAX_VOCAB_SIZE = 1 << 24
MAX_UNUSED_IDS = 1 << 16  # ids below the size of the vocabulary that no token has
MAX_GROUP_TOKENS = 1 << 24  # rows of a row group x capacity of a row
MAX_GROUP_ROWS = 1 << 16
_ANY_NUMBER = 1 << 62


@dataclass(frozen=True)
class Limits:
    """The most that a row of a shard and all its rows may hold, as its manifest says. The defaults are the format's bounds."""

    vocab_size: int = MAX_VOCAB_SIZE
    sequence_tokens: int = MAX_SEQ_LEN
    row_tokens: int = MAX_SEQ_LEN
    row_sequences: int = MAX_SEQ_LEN
    row_masked: int = MAX_SEQ_LEN
    tokens: int = _ANY_NUMBER  # of all rows, as the next two
    sequences: int = _ANY_NUMBER
    masked: int = _ANY_NUMBER
    columns: Set[str] | None = None  # that each row must have; None: any

    def values(self, column: str) -> int:
        """The most values of a column in a row."""
        if column == TOKEN_COLUMN:
            return self.row_tokens
        return self.row_sequences if column in SEQUENCE_COLUMNS else self.row_masked

    def total(self, column: str) -> int:
        """The most values of a column in all rows."""
        if column == TOKEN_COLUMN:
            return self.tokens
        return self.sequences if column in SEQUENCE_COLUMNS else self.masked

    def decoded_bytes(self, num_rows: int) -> int:
        """The most bytes that the columns of `num_rows` rows can take."""
        dtypes = column_dtypes(self.vocab_size).items()
        return sum(min(num_rows * self.values(name), self.total(name)) * kind.itemsize for name, kind in dtypes)


FORMAT_LIMITS = Limits()


def check_rows(rows: Rows, limits: Limits) -> None:
    """Raises ValueError for rows that a compiled loop or a model would misread.

    The cheap half of the format's rules, without those of special tokens and mask rates (see `shards.checks`).
    """
    present = {name for name, _, _ in rows.columns()}
    if limits.columns is not None and present != limits.columns:
        raise ValueError(f"its columns are {_listed(present)}, must be {_listed(limits.columns)}")
    dtypes = column_dtypes(limits.vocab_size)
    for name, offsets, values in rows.columns():
        if values.dtype != dtypes[name]:
            raise ValueError(f"{name} is {values.dtype}, must be {dtypes[name]}")
        most = int(np.diff(offsets).max(initial=0))
        if most > limits.values(name):
            raise ValueError(f"a row has {most} values in {name}, the manifest allows {limits.values(name)}")
        if len(values) > limits.total(name):
            raise ValueError(f"{name} has {len(values)} values, the manifest says {limits.total(name)} in all row groups")
    _check_sequences(rows, limits)
    if int(rows.input_ids.max(initial=0)) >= limits.vocab_size:
        raise ValueError(f"input_ids holds {rows.input_ids.max()}, the vocabulary has {limits.vocab_size} entries")
    if rows.masked_positions is not None and rows.masked_labels is not None and rows.masked_offsets is not None:
        _check_masks(rows, limits, rows.masked_offsets)


def _listed(names: Set[str]) -> str:
    return ", ".join(name for name in COLUMNS if name in names)


def _check_sequences(rows: Rows, limits: Limits) -> None:
    lengths = rows.sequence_lengths
    starts = rows.sequence_starts()
    if starts[-1] != len(rows.input_ids) or not np.array_equal(starts[rows.sequence_offsets], rows.token_offsets):
        raise ValueError("sequence_lengths do not sum to the length of input_ids in every row")
    if len(rows) and np.diff(rows.token_offsets).min() == 0:
        raise ValueError("a row has no token")
    if len(lengths) and lengths.min() == 0:
        raise ValueError("a sequence has no token")
    if int(lengths.max(initial=0)) > limits.sequence_tokens:
        raise ValueError(f"a sequence has {lengths.max()} tokens, the manifest allows {limits.sequence_tokens}")
    if (rows.segment_a_lengths > lengths).any():
        raise ValueError("segment_a_lengths has a value above its sequence's length")
    label = rows.next_sentence_label
    if label is not None and int(label.max(initial=0)) > 1:
        raise ValueError(f"next_sentence_label holds {label.max()}, allowed are 0 and 1")


def _check_masks(rows: Rows, limits: Limits, offsets: Offsets) -> None:
    positions = rows.masked_positions
    assert positions is not None and rows.masked_labels is not None
    has_masked = offsets[1:] > offsets[:-1]
    last = offsets[1:][has_masked] - 1
    ascends = positions[1:] > positions[:-1]
    ascends[last[:-1]] = True  # the next position is in another row
    row_lengths = np.diff(rows.token_offsets)
    if (positions[last] >= row_lengths[has_masked]).any() or (
        not ascends.all() and (positions >= np.repeat(row_lengths, np.diff(offsets))).any()
    ):
        raise ValueError("masked_positions holds a position outside its row")
    if not ascends.all():
        raise ValueError("masked_positions is not strictly ascending in every row")
    if int(rows.masked_labels.max(initial=0)) >= limits.vocab_size:
        raise ValueError(f"masked_labels holds {rows.masked_labels.max()}, the vocabulary has {limits.vocab_size} entries")

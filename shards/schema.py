"""The columns of a shard: their names and types, and rows as flat arrays.

`Rows` is a block of rows as flat numpy arrays with offsets. Legend of the shapes: R rows, S sequences, T tokens, M masked.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

# Goes up when a reader of the previous version would misread a shard or its manifest.
FORMAT_VERSION = 2

# What is selected for prediction.
MaskUnit = Literal["token", "word", "ngram", "span"]

Ints = npt.NDArray[np.integer]
Offsets = npt.NDArray[np.int64]

TOKEN_COLUMN = "input_ids"
SEQUENCE_COLUMNS = ("sequence_lengths", "segment_a_lengths", "next_sentence_label")
MASKED_COLUMNS = ("masked_positions", "masked_labels")
COLUMNS = (TOKEN_COLUMN, *SEQUENCE_COLUMNS, *MASKED_COLUMNS)
OPTIONAL_COLUMNS = ("next_sentence_label", *MASKED_COLUMNS)


def token_dtype(vocab_size: int) -> np.dtype[np.integer]:
    """The type of token ids: uint16 if every id fits, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 65_536 else np.uint32)


def column_dtypes(vocab_size: int) -> dict[str, np.dtype[np.integer]]:
    """Column name -> type of its values."""
    ids, length = token_dtype(vocab_size), np.dtype(np.uint16)
    return {
        "input_ids": ids,
        "sequence_lengths": length,
        "segment_a_lengths": length,
        "next_sentence_label": np.dtype(np.uint8),
        "masked_positions": length,
        "masked_labels": ids,
    }


@dataclass(frozen=True)
class Rows:
    """R rows as flat columns. `*_offsets` have R + 1 entries: row r holds values[offsets[r]:offsets[r + 1]]."""

    token_offsets: Offsets  # [R + 1]
    sequence_offsets: Offsets  # [R + 1]
    input_ids: Ints  # [T]
    sequence_lengths: Ints  # [S]
    segment_a_lengths: Ints  # [S]
    next_sentence_label: Ints | None = None  # [S]
    masked_offsets: Offsets | None = None  # [R + 1]
    masked_positions: Ints | None = None  # [M]
    masked_labels: Ints | None = None  # [M]

    def __len__(self) -> int:
        return len(self.token_offsets) - 1

    def columns(self) -> Iterator[tuple[str, Offsets, Ints]]:
        """(name, offsets, values) of every column present, in the contract's order."""
        for name in COLUMNS:
            values = getattr(self, name)
            if values is not None:
                yield name, self.offsets(name), values

    def offsets(self, column: str) -> Offsets:
        """The offsets that cut `column` into rows."""
        if column == TOKEN_COLUMN:
            return self.token_offsets
        if column in SEQUENCE_COLUMNS:
            return self.sequence_offsets
        assert self.masked_offsets is not None
        return self.masked_offsets

    def slice(self, start: int, stop: int) -> "Rows":
        """Rows [start, stop), values as views."""
        parts: dict[str, Any] = {}
        for name, offsets, values in self.columns():
            parts[name] = values[offsets[start] : offsets[stop]]
        for group in ("token_offsets", "sequence_offsets", "masked_offsets"):
            offsets = getattr(self, group)
            if offsets is not None:
                parts[group] = offsets[start : stop + 1] - offsets[start]
        return Rows(**parts)

    def sequence_starts(self) -> Offsets:
        """Where each sequence begins in `input_ids`, and the end: [S + 1]."""
        return lengths_to_offsets(self.sequence_lengths)

    def masked_indices(self) -> Offsets:
        """The index of each masked token in `input_ids`: [M]."""
        assert self.masked_offsets is not None and self.masked_positions is not None
        return self.masked_positions.astype(np.int64) + np.repeat(self.token_offsets[:-1], np.diff(self.masked_offsets))


def lengths_to_offsets(lengths: Ints | npt.NDArray[np.bool_]) -> Offsets:
    """[n] lengths -> [n + 1] offsets that start at 0."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def rows_from_columns(columns: dict[str, tuple[Offsets, Ints]]) -> Rows:
    """Rows from name -> (offsets, values).

    Raises ValueError when a column is missing or unknown, or has other lengths per row than the columns of its group.
    """
    required = [name for name in COLUMNS if name not in OPTIONAL_COLUMNS and name not in columns]
    unknown = [name for name in columns if name not in COLUMNS]
    if required or unknown:
        raise ValueError(f"columns missing: {required}, columns unknown: {unknown}")
    if ("masked_positions" in columns) != ("masked_labels" in columns):
        raise ValueError("masked_positions and masked_labels must come together")
    for names in (SEQUENCE_COLUMNS, MASKED_COLUMNS):
        present = [name for name in names if name in columns]
        for name in present[1:]:
            if not np.array_equal(columns[name][0], columns[present[0]][0]):
                raise ValueError(f"{name} and {present[0]} have different lengths in a row")
    masked = columns.get("masked_positions")
    return Rows(
        token_offsets=columns["input_ids"][0],
        sequence_offsets=columns["sequence_lengths"][0],
        masked_offsets=masked[0] if masked else None,
        **{name: values for name, (_, values) in columns.items()},
    )


def concatenate(blocks: Sequence[Rows]) -> Rows:
    """The rows of all blocks, one after the other. The blocks must have the same columns. A single block is not copied."""
    if len(blocks) == 1:
        return blocks[0]
    columns: dict[str, tuple[Offsets, Ints]] = {}
    for name, _, _ in blocks[0].columns():
        counts = np.concatenate([np.diff(block.offsets(name)) for block in blocks])
        values = np.concatenate([getattr(block, name) for block in blocks])
        columns[name] = (lengths_to_offsets(counts), values)
    return rows_from_columns(columns)


def columns_sha256(rows: Rows) -> str:
    """Digest of the decoded columns: the name, type, length per row (uint32) and values of each, little-endian."""
    digest = hashlib.sha256()
    for name, offsets, values in rows.columns():
        kind = values.dtype.newbyteorder("<")
        digest.update(f"{name}:{kind.str}:{len(rows)}:{len(values)}\n".encode())
        digest.update(np.ascontiguousarray(np.diff(offsets), "<u4").data)
        digest.update(np.ascontiguousarray(values, kind).data)
    return digest.hexdigest()

"""Rows made from lists of ids, and how they are masked, for tests."""

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from shards.masking import Masking
from shards.randomness import Purpose, address
from shards.schema import Rows, lengths_to_offsets

VOCAB_SIZE = 500
SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}


def make_rows(sequences: list[list[int]], row_sizes: list[int]) -> Rows:
    """Sequences of ordinary ids, as `[CLS] A [SEP] B [SEP]` with A the first half, in rows of `row_sizes` sequences."""
    built, a_lengths = [], []
    for ids in sequences:
        a = (len(ids) + 1) // 2
        built.append([SPECIAL["cls"], *ids[:a], SPECIAL["sep"], *ids[a:], SPECIAL["sep"]])
        a_lengths.append(a + 2)
    lengths = np.array([len(ids) for ids in built], np.uint16)
    sequence_offsets = lengths_to_offsets(np.array(row_sizes))
    return Rows(
        token_offsets=lengths_to_offsets(lengths)[sequence_offsets],
        sequence_offsets=sequence_offsets,
        input_ids=np.array([i for ids in built for i in ids], np.uint16),
        sequence_lengths=lengths,
        segment_a_lengths=np.array(a_lengths, np.uint16),
        next_sentence_label=np.zeros(len(built), np.uint8),
    )


def keys_of(rows: Rows, seed: int = 0) -> npt.NDArray[np.uint64]:
    keys: npt.NDArray[np.uint64] = address(seed, Purpose.MASK, np.arange(len(rows.sequence_lengths), dtype=np.uint64))
    return keys


def masking(probability: float = 0.15) -> Masking:
    return Masking(probability, VOCAB_SIZE, tuple(SPECIAL.values()), SPECIAL["mask"])


IDS = st.lists(st.integers(5, VOCAB_SIZE - 1) | st.just(1), min_size=2, max_size=60)

"""Sequences -> packed rows in shuffled order, cut into shards, with their special tokens."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from prep.pairing.frame import copy_segments
from prep.pairing.packing import pack
from prep.pairing.sequences import Sequences
from prep.pairing.task import Recipe
from prep.tokens.store import ranges
from shards.randomness import Purpose, address
from shards.schema import Offsets, Rows, lengths_to_offsets, token_dtype


def arrange_rows(
    lengths: npt.NDArray[np.int64], keys: npt.NDArray[np.uint64], recipe: Recipe
) -> tuple[npt.NDArray[np.int64], Offsets]:
    """The sequences in the order of the shuffled rows [S], and where each row begins among them [R + 1]."""
    shuffled = np.argsort(address(recipe.seed, Purpose.SEQUENCE_ORDER, keys), kind="stable")
    if not recipe.pack:
        return shuffled, np.arange(len(shuffled) + 1)
    packed, starts = pack(lengths[shuffled], recipe.row_capacity)
    order = shuffled[packed]
    row_keys = address(recipe.seed, Purpose.ROW_ORDER, keys[order[starts[:-1]]])
    rows = np.argsort(row_keys, kind="stable")
    return order[ranges(starts[:-1][rows], starts[1:][rows])], lengths_to_offsets(np.diff(starts)[rows])


def cut_shards(lengths: npt.NDArray[np.int64], row_starts: Offsets, shard_tokens: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows, one a shard, of about the same number of tokens and at most about `shard_tokens`."""
    num_rows = len(row_starts) - 1
    tokens = lengths_to_offsets(lengths)[row_starts]
    count = -(-int(tokens[-1]) // shard_tokens)
    edges = np.searchsorted(tokens, [int(tokens[-1]) * i // max(1, count) for i in range(count + 1)])
    edges[-1] = num_rows
    yield from ((int(first), int(last)) for first, last in pairwise(edges) if first < last)


def gather_rows(
    sequences: Sequences, chosen: npt.NDArray[np.int64], sequence_offsets: Offsets, ids: Any, recipe: Recipe
) -> Rows:
    """The rows of the sequences `chosen` [S], with `sequence_offsets` [R + 1] among them; `ids` [T] of the pairing."""
    template = recipe.template
    a_lengths, b_lengths = sequences.a_lengths[chosen], sequences.b_lengths[chosen]
    lengths = a_lengths + b_lengths + template.num_special
    starts = lengths_to_offsets(lengths)
    input_ids: npt.NDArray[Any] = np.empty(starts[-1], token_dtype(recipe.vocab_size))
    copy_segments(
        input_ids,
        starts,
        ids,
        sequences.a_starts[chosen],
        a_lengths,
        sequences.b_starts[chosen],
        b_lengths,
        *(np.array(side, np.int64) for side in (template.prefix, template.between, template.suffix)),
    )
    tail = len(template.suffix) if sequences.labels is None else template.between_a
    return Rows(
        token_offsets=starts[sequence_offsets],
        sequence_offsets=sequence_offsets,
        input_ids=input_ids,
        sequence_lengths=lengths.astype(np.uint16),
        segment_a_lengths=(len(template.prefix) + a_lengths + tail).astype(np.uint16),
        next_sentence_label=None if sequences.labels is None else sequences.labels[chosen],
    )

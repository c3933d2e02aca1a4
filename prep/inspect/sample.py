"""Counts over some row groups of a split, chosen by seed: figures that the manifest does not hold.

Memory does not grow with the data set: it holds one row group, counts by length and by token, and a few sequences to show.
A row group is a fair sample, because the documents of a partition and the rows of a key range are shuffled.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prep.inspect.passages import TokenText, passage
from shards.dataset import read_group
from shards.manifest import Manifest, Shards
from shards.masking import unmask_rows
from shards.randomness import Purpose, address
from shards.report.sheet import Passage
from shards.schema import Rows, lengths_to_offsets

# A split with at most this many tokens is read completely.
SAMPLE_TOKENS = {"train": 16 << 20, "eval": 4 << 20}
NUM_PASSAGES = {"train": 4, "eval": 2}
SampleCounts = npt.NDArray[np.int64]


@dataclass
class Actions:
    """How many tokens were masked, and how many of them (`hits`) by one action: [MASK], a random token, or kept.

    The squares and products are sums over sequences, for the variance: draws inside a sequence depend on each other if words
    or spans are masked.
    """

    masked: int = 0
    hits: int = 0
    hits_squared: int = 0
    hits_masked: int = 0
    masked_squared: int = 0

    def add(self, masked: SampleCounts, hits: SampleCounts) -> None:
        """Add the counts of sequences: two arrays with one entry per sequence."""
        self.masked += int(masked.sum())
        self.hits += int(hits.sum())
        self.hits_squared += int((hits * hits).sum())
        self.hits_masked += int((hits * masked).sum())
        self.masked_squared += int((masked * masked).sum())


@dataclass
class Sample:
    """The counts. `sequence_lengths[n]` sequences have n tokens; `tokens` and `masked` are indexed by token id."""

    tokens: SampleCounts
    masked: SampleCounts
    sequence_lengths: SampleCounts
    mask: Actions
    random: Actions
    kept: Actions
    rows: int
    has_labels: bool
    passages: list[Passage]


def read_sample(url: str, manifest: Manifest, split: str, seed: int, texts: Mapping[int, TokenText]) -> Sample:
    """Count row groups of a split until they hold enough tokens. Raises UserError when one cannot be decoded."""
    shards = manifest.splits[split].shards
    size = manifest.tokenizer["vocab_size"]
    lengths = np.zeros(manifest.settings["max_seq_len"] + 1, np.int64)
    counts = (np.zeros(size, np.int64), np.zeros(size, np.int64))
    sample = Sample(*counts, lengths, Actions(), Actions(), Actions(), 0, False, [])
    chosen = _choose(shards, seed, SAMPLE_TOKENS[split])
    for place in sorted(chosen):
        shard, group = shards[place[0]], place[1]
        rows = read_group(url, manifest, split, shard, group)
        _count(sample, rows, manifest.tokenizer["special_ids"]["mask"])
        if place == chosen[0]:
            first_row = sum(other.rows for other in shard.row_groups[:group])
            sample.passages += _passages(rows, seed, split, shard.path, first_row, manifest, texts)
    return sample


def _choose(shards: Shards, seed: int, enough: int) -> list[tuple[int, int]]:
    """Row groups, as (shard, group), in an order drawn by the seed, until they hold `enough` tokens; all if they hold fewer."""
    columns, starts = shards.columns, lengths_to_offsets(shards.num_groups())
    keys = address(seed, Purpose.SHOW, 2, np.arange(starts[-1], dtype=np.uint64))
    chosen, tokens = list[tuple[int, int]](), 0.0
    for group in np.argsort(keys, kind="stable").tolist():
        if tokens >= enough:
            break
        shard = int(np.searchsorted(starts, group, side="right")) - 1
        rows = int(columns["group_rows"][group])
        tokens += int(columns["tokens"][shard]) * rows / max(1, int(columns["rows"][shard]))
        chosen.append((shard, group - int(starts[shard])))
    return chosen


def _count(sample: Sample, rows: Rows, mask_id: int) -> None:
    sample.rows += len(rows)
    sample.has_labels |= rows.next_sentence_label is not None
    sample.sequence_lengths += np.bincount(rows.sequence_lengths, minlength=len(sample.sequence_lengths))
    sample.tokens += np.bincount(unmask_rows(rows).input_ids, minlength=len(sample.tokens))
    if rows.masked_labels is None:
        return
    sample.masked += np.bincount(rows.masked_labels, minlength=len(sample.masked))
    places = rows.masked_indices()
    visible, count = rows.input_ids[places], len(rows.sequence_lengths)
    sequence = np.searchsorted(rows.sequence_starts(), places, side="right") - 1
    masked = np.bincount(sequence, minlength=count)
    is_mask, is_kept = visible == mask_id, visible == rows.masked_labels
    for actions, is_hit in ((sample.mask, is_mask), (sample.kept, is_kept), (sample.random, ~(is_mask | is_kept))):
        actions.add(masked, np.bincount(sequence[is_hit], minlength=count))


def _passages(
    rows: Rows, seed: int, split: str, path: str, first_row: int, manifest: Manifest, texts: Mapping[int, TokenText]
) -> Iterator[Passage]:
    keys = address(seed, Purpose.SHOW, 3, np.arange(len(rows.sequence_lengths), dtype=np.uint64))
    for sequence in np.argsort(keys, kind="stable")[: NUM_PASSAGES[split]]:
        yield passage(rows, int(sequence), texts, manifest, path, first_row)

"""The second task: a share of a partition -> pairs -> rows -> masks -> shards.

It is a function of the task alone, publishes its record last, and does nothing when the record is there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from prep.packing import pack
from prep.pairs import Sequences, pair_next_sentence
from prep.progress import Counts, report
from prep.records import ShareRecord, finished
from prep.store import Documents, join_documents, ranges, read_buckets, segment_url
from shards import storage
from shards.compiled import compiled
from shards.formats import FORMATS
from shards.manifest import ShardInfo
from shards.masking import Masking, mask_rows
from shards.randomness import Purpose, address
from shards.schema import Offsets, Rows, columns_sha256, lengths_to_offsets, token_dtype

PAIR_STAGE = 2
RECIPE_VERSION = 1
"""Raised when the same settings give other data."""
GROUP_SEQUENCES = 8192
"""Sequences of a row group, were all of them as long as may be."""
BYTES_PER_TOKEN = 2
"""Of a shard, about; a constant, so that both formats cut their shards in the same places."""


@dataclass(frozen=True)
class Recipe:
    """How sequences become rows: the settings that the task needs."""

    seed: int
    max_seq_len: int
    short_seq_prob: float
    pack: bool
    row_capacity: int
    masking: Masking | None
    cls_id: int
    sep_id: int
    vocab_size: int
    format: str
    shard_tokens: int


@dataclass(frozen=True)
class ShareTask:
    """Documents of buckets [first_bucket, last_bucket) with a content hash in [hash_from, hash_below), for one copy.

    Of those, the ones whose place in the global shuffle is in the `share`-th of `num_shares` equal ranges.
    """

    number: int
    split: str
    copy: int
    first_bucket: int
    last_bucket: int
    hash_from: int
    hash_below: int
    share: int
    num_shares: int
    store: str
    segments: tuple[int, ...]  # how many each unit has
    recipe: Recipe
    out: str
    records: str

    @property
    def name(self) -> str:
        """For messages."""
        return f"pairing {self.split} partition {self.number}"

    @property
    def record_url(self) -> str:
        """Where the task's record is once it is done."""
        return storage.join(self.records, f"share-{self.number:06d}.json")

    def shards_of(self, record: ShareRecord) -> list[tuple[str, int]]:
        """The URL and the bytes of each shard that the record speaks of."""
        return [(storage.join(self.out, shard.path), shard.bytes) for shard in record.shards]


def build_share(task: ShareTask) -> ShareRecord:
    """Builds the shards of a share, or returns the record of when that was done and the shards are still there."""
    done = finished(task.record_url, ShareRecord.load, task.shards_of)
    if done:
        return done
    recipe = task.recipe
    documents = _read_documents(task)
    places = address(recipe.seed, Purpose.DOCUMENT_ORDER, documents.keys)
    sentences = documents.sentence_offsets()
    sequences, tally = pair_next_sentence(
        np.argsort(places, kind="stable"),
        sentences,
        documents.token_offsets(),
        documents.ids,
        documents.hashes,
        address(recipe.seed, Purpose.PAIR, task.copy, documents.keys),
        recipe.max_seq_len,
        recipe.short_seq_prob,
    )
    order, row_starts = _rows(sequences, recipe)
    shards = []
    for number, (first, last) in enumerate(_cut(sequences.lengths()[order], row_starts, recipe.shard_tokens)):
        chosen = order[row_starts[first] : row_starts[last]]
        rows = _gather(sequences, chosen, row_starts[first : last + 1] - row_starts[first], documents.ids, recipe)
        if recipe.masking is not None:
            rows = mask_rows(rows, address(recipe.seed, Purpose.MASK, sequences.keys[chosen]), recipe.masking)
        forced = int(np.count_nonzero(sequences.forced[chosen]))
        shards.append(_write_shard(task, number, rows, forced))
        report(PAIR_STAGE, task.number, Counts(tally.made * row_starts[last] // len(order), 0, 0, tally.made))
    record = ShareRecord(task.split, len(documents.keys), tally, tuple(shards))
    storage.publish(task.record_url, record.to_json())
    return record


def _read_documents(task: ShareTask) -> Documents:
    """The share's documents, in the order of the units."""
    id_type = token_dtype(task.recipe.vocab_size)
    blocks = [Documents(*(np.empty(0, kind) for kind in ("u8", "u8", "u4", "u4", id_type)))]
    for unit, segments in enumerate(task.segments):
        for segment in range(segments):
            url = segment_url(task.store, unit, segment)
            for block in read_buckets(url, task.first_bucket, task.last_bucket, id_type):
                ours = _ours(block, task)
                blocks.append(block if ours.all() else block.take(np.flatnonzero(ours)))
    return join_documents(blocks)


def _ours(block: Documents, task: ShareTask) -> npt.NDArray[np.bool_]:
    ours = (block.hashes >= np.uint64(task.hash_from)) & (block.hashes <= np.uint64(task.hash_below - 1))
    if task.num_shares > 1:
        places = address(task.recipe.seed, Purpose.DOCUMENT_ORDER, block.keys)
        edges = [-(-(index << 64) // task.num_shares) for index in (task.share, task.share + 1)]
        ours &= (places >= np.uint64(edges[0])) & (places <= np.uint64(edges[1] - 1))
    return ours


def _rows(sequences: Sequences, recipe: Recipe) -> tuple[npt.NDArray[np.int64], Offsets]:
    """The sequences in the order of the shuffled rows [S], and where each row begins among them [R + 1]."""
    shuffled = np.argsort(address(recipe.seed, Purpose.SEQUENCE_ORDER, sequences.keys), kind="stable")
    if not recipe.pack:
        return shuffled, np.arange(len(shuffled) + 1)
    packed, starts = pack(sequences.lengths()[shuffled], recipe.row_capacity)
    order = shuffled[packed]
    row_keys = address(recipe.seed, Purpose.ROW_ORDER, sequences.keys[order[starts[:-1]]])
    rows = np.argsort(row_keys, kind="stable")
    return order[ranges(starts[:-1][rows], starts[1:][rows])], lengths_to_offsets(np.diff(starts)[rows])


def _cut(lengths: npt.NDArray[np.int64], row_starts: Offsets, shard_tokens: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows, one a shard, of about the same number of tokens and at most about `shard_tokens`."""
    num_rows = len(row_starts) - 1
    tokens = lengths_to_offsets(lengths)[row_starts]
    count = -(-int(tokens[-1]) // shard_tokens)
    edges = np.searchsorted(tokens, [int(tokens[-1]) * i // max(1, count) for i in range(count + 1)])
    edges[-1] = num_rows
    yield from ((int(first), int(last)) for first, last in pairwise(edges) if first < last)


def _gather(sequences: Sequences, chosen: npt.NDArray[np.int64], sequence_offsets: Offsets, ids: Any, recipe: Recipe) -> Rows:
    lengths = sequences.lengths()[chosen]
    starts = lengths_to_offsets(lengths)
    input_ids: npt.NDArray[Any] = np.empty(starts[-1], token_dtype(recipe.vocab_size))
    _copy_segments(
        input_ids,
        starts,
        ids,
        sequences.a_starts[chosen],
        sequences.a_lengths[chosen],
        sequences.b_starts[chosen],
        sequences.b_lengths[chosen],
        recipe.cls_id,
        recipe.sep_id,
    )
    return Rows(
        token_offsets=starts[sequence_offsets],
        sequence_offsets=sequence_offsets,
        input_ids=input_ids,
        sequence_lengths=lengths.astype(np.uint16),
        segment_a_lengths=(sequences.a_lengths[chosen] + 2).astype(np.uint16),
        next_sentence_label=sequences.labels[chosen],
    )


@compiled
def _copy_segments(
    out: Any, starts: Any, ids: Any, a_starts: Any, a_lengths: Any, b_starts: Any, b_lengths: Any, cls_id: int, sep_id: int
) -> None:
    """Writes `[CLS] A [SEP] B [SEP]` of every sequence into `out`."""
    for s in range(len(a_starts)):
        at = starts[s]
        out[at] = cls_id
        at += 1
        for i in range(a_lengths[s]):
            out[at + i] = ids[a_starts[s] + i]
        at += a_lengths[s]
        out[at] = sep_id
        at += 1
        for i in range(b_lengths[s]):
            out[at + i] = ids[b_starts[s] + i]
        out[at + b_lengths[s]] = sep_id


def _write_shard(task: ShareTask, number: int, rows: Rows, forced: int) -> ShardInfo:
    recipe, output = task.recipe, FORMATS[task.recipe.format]
    group_rows = max(1, GROUP_SEQUENCES * recipe.max_seq_len // recipe.row_capacity)
    data, groups = output.write(rows, group_rows)
    path = f"{task.split}/{task.number:06d}-{number:04d}{output.SUFFIX}"
    storage.publish(storage.join(task.out, path), data)
    masked = np.diff(rows.masked_offsets) if rows.masked_offsets is not None else np.zeros(1, np.int64)
    assert rows.next_sentence_label is not None
    return ShardInfo(
        path=path,
        bytes=len(data),
        sha256=sha256(data).hexdigest(),
        columns_sha256=columns_sha256(rows),
        rows=len(rows),
        sequences=len(rows.sequence_lengths),
        tokens=len(rows.input_ids),
        masked_tokens=int(masked.sum()),
        not_next=int(np.count_nonzero(rows.next_sentence_label)),
        forced_not_next=forced,
        max_row_tokens=int(np.diff(rows.token_offsets).max()),
        max_sequences_per_row=int(np.diff(rows.sequence_offsets).max()),
        max_masked_per_row=int(masked.max()),
        row_groups=tuple(groups),
    )

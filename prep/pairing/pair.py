"""The pair task: the documents of a partition, or of a key range of it -> sequences -> rows -> masks -> shards.

It is a function of the task alone, publishes its record last, and does nothing when the record is there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from prep.pairing.full_sentences import fill_sentences
from prep.pairing.nsp import pair_next_sentence
from prep.pairing.packing import pack
from prep.pairing.paragraph import pair_paragraphs
from prep.pairing.sequences import Sequences
from prep.pairing.sop import pair_sentence_order
from prep.progress import Progress, save_progress
from prep.records import Duplicates, PairRecord, Tally, finished
from prep.tokens.store import Documents, empty_documents, join_documents, ranges, read_buckets, segment_url
from shards import storage
from shards.compiled import compiled
from shards.formats import FORMATS
from shards.manifest import ShardInfo
from shards.masking import Masking, mask_rows
from shards.randomness import Purpose, address
from shards.schema import Offsets, Rows, columns_sha256, lengths_to_offsets, token_dtype
from shards.template import Template

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
    pairing: str  # nsp, paragraph, sop or none
    separator: int | None  # between documents in one sequence; None: they are not crossed
    drop_duplicates: bool
    max_seq_len: int
    short_seq_prob: float
    pack: bool
    row_capacity: int
    masking: Masking | None
    template: Template
    vocab_size: int
    format: str
    shard_tokens: int


@dataclass(frozen=True)
class PairTask:
    """Documents of buckets [first_bucket, last_bucket) with a content hash in [hash_from, hash_below), for one copy.

    Of those, the ones whose place in the global shuffle is in range number `key_range` of `num_key_ranges` equal ones.
    """

    number: int
    split: str
    copy: int
    first_bucket: int
    last_bucket: int
    hash_from: int
    hash_below: int
    key_range: int
    num_key_ranges: int
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
        return storage.join(self.records, f"pair-{self.number:06d}.json")

    def shards_of(self, record: PairRecord) -> list[tuple[str, int]]:
        """The URL and the bytes of each shard that the record speaks of."""
        return [(storage.join(self.out, shard.path), shard.bytes) for shard in record.shards]


def pair_partition(task: PairTask) -> PairRecord:
    """Builds the shards of the task, or returns the record of an earlier run whose shards are still there."""
    done = finished(task.record_url, PairRecord.load, task.shards_of)
    if done:
        return done
    recipe = task.recipe
    documents, duplicates = _read_documents(task)
    ids, sequences, tally = _make_sequences(documents, recipe, task.copy)
    lengths = sequences.lengths(recipe.template.num_special)
    order, row_starts = _rows(lengths, sequences.keys, recipe)
    shards = []
    for number, (first, last) in enumerate(_cut(lengths[order], row_starts, recipe.shard_tokens)):
        chosen = order[row_starts[first] : row_starts[last]]
        rows = _gather(sequences, chosen, row_starts[first : last + 1] - row_starts[first], ids, recipe)
        if recipe.masking is not None:
            rows = mask_rows(rows, address(recipe.seed, Purpose.MASK, sequences.keys[chosen]), recipe.masking)
        forced = int(np.count_nonzero(sequences.forced[chosen]))
        shards.append(_write_shard(task, number, rows, forced))
        save_progress(PAIR_STAGE, task.number, Progress(tally.made * row_starts[last] // len(order), 0, 0, tally.made))
    record = PairRecord(task.split, task.copy, len(documents.keys), tally, duplicates, tuple(shards))
    storage.publish(task.record_url, record.to_json())
    return record


def _make_sequences(documents: Documents, recipe: Recipe, copy: int) -> tuple[npt.NDArray[Any], Sequences, Tally]:
    """The sequences of the documents, the ids that they are indices of, and what became of the tokens."""
    places = address(recipe.seed, Purpose.DOCUMENT_ORDER, documents.keys)
    order = np.argsort(places, kind="stable")
    keys = address(recipe.seed, Purpose.PAIR, copy, documents.keys)
    max_tokens = recipe.max_seq_len - recipe.template.num_special
    if recipe.pairing == "none":
        return fill_sentences(documents, order, keys, max_tokens, recipe.short_seq_prob, recipe.separator)
    corpus = (order, documents.sentence_offsets(), documents.token_offsets(), documents.ids)
    if recipe.pairing == "sop":
        sequences, tally = pair_sentence_order(*corpus, keys, max_tokens, recipe.short_seq_prob)
    elif recipe.pairing == "paragraph":
        sequences, tally = pair_paragraphs(*corpus, keys, max_tokens)
    else:
        sequences, tally = pair_next_sentence(*corpus, documents.hashes, keys, max_tokens, recipe.short_seq_prob)
    return documents.ids, sequences, tally


def _read_documents(task: PairTask) -> tuple[Documents, Duplicates]:
    """The task's documents, in the order of the units; of those with one key, which are copies, the first where asked for."""
    id_type = token_dtype(task.recipe.vocab_size)
    blocks = [empty_documents(id_type)]
    duplicates = Duplicates()
    seen: set[int] = set()
    urls = [segment_url(task.store, unit, segment) for unit, count in enumerate(task.segments) for segment in range(count)]
    for block in read_buckets(urls, task.first_bucket, task.last_bucket, id_type):
        ours = _ours(block, task)
        if task.split == "eval":
            _keep_originals(block, ours, duplicates)
        if task.recipe.drop_duplicates:
            _keep_first(block, ours, seen, duplicates)
        blocks.append(block if ours.all() else block.take(np.flatnonzero(ours)))
    return join_documents(blocks), duplicates


def _keep_originals(block: Documents, ours: npt.NDArray[np.bool_], duplicates: Duplicates) -> None:
    """Takes the further copies that a weight asked for out of `ours`, and counts their tokens: held out is a text once."""
    tokens = np.diff(block.token_offsets()[block.sentence_offsets()])
    further = ours & (block.num_bytes == 0)
    duplicates.tokens += int(tokens[further].sum())
    ours &= ~further


def _keep_first(block: Documents, ours: npt.NDArray[np.bool_], seen: set[int], duplicates: Duplicates) -> None:
    """Takes documents out of `ours` whose keys are in `seen`, counts them, and adds the other keys."""
    tokens: Sequence[int] = np.diff(block.token_offsets()[block.sentence_offsets()]).tolist()
    for i in np.flatnonzero(ours).tolist():
        key = int(block.keys[i])
        if key in seen:
            ours[i] = False
            duplicates.count(int(block.num_bytes[i]), tokens[i])
        seen.add(key)


def _ours(block: Documents, task: PairTask) -> npt.NDArray[np.bool_]:
    ours = (block.hashes >= np.uint64(task.hash_from)) & (block.hashes <= np.uint64(task.hash_below - 1))
    if task.num_key_ranges > 1:
        places = address(task.recipe.seed, Purpose.DOCUMENT_ORDER, block.keys)
        edges = [-(-(index << 64) // task.num_key_ranges) for index in (task.key_range, task.key_range + 1)]
        ours &= (places >= np.uint64(edges[0])) & (places <= np.uint64(edges[1] - 1))
    return ours


def _rows(
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


def _cut(lengths: npt.NDArray[np.int64], row_starts: Offsets, shard_tokens: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows, one a shard, of about the same number of tokens and at most about `shard_tokens`."""
    num_rows = len(row_starts) - 1
    tokens = lengths_to_offsets(lengths)[row_starts]
    count = -(-int(tokens[-1]) // shard_tokens)
    edges = np.searchsorted(tokens, [int(tokens[-1]) * i // max(1, count) for i in range(count + 1)])
    edges[-1] = num_rows
    yield from ((int(first), int(last)) for first, last in pairwise(edges) if first < last)


def _gather(sequences: Sequences, chosen: npt.NDArray[np.int64], sequence_offsets: Offsets, ids: Any, recipe: Recipe) -> Rows:
    template = recipe.template
    a_lengths, b_lengths = sequences.a_lengths[chosen], sequences.b_lengths[chosen]
    lengths = a_lengths + b_lengths + template.num_special
    starts = lengths_to_offsets(lengths)
    input_ids: npt.NDArray[Any] = np.empty(starts[-1], token_dtype(recipe.vocab_size))
    _copy_segments(
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


@compiled
def _copy_segments(
    out: Any,
    starts: Any,
    ids: Any,
    a_starts: Any,
    a_lengths: Any,
    b_starts: Any,
    b_lengths: Any,
    prefix: Any,
    between: Any,
    suffix: Any,
) -> None:
    """Writes `prefix A between B suffix` of every sequence into `out`."""
    for s in range(len(a_starts)):
        at = starts[s]
        for token in prefix:
            out[at] = token
            at += 1
        for i in range(a_lengths[s]):
            out[at + i] = ids[a_starts[s] + i]
        at += a_lengths[s]
        for token in between:
            out[at] = token
            at += 1
        for i in range(b_lengths[s]):
            out[at + i] = ids[b_starts[s] + i]
        at += b_lengths[s]
        for token in suffix:
            out[at] = token
            at += 1


def _write_shard(task: PairTask, number: int, rows: Rows, forced: int) -> ShardInfo:
    recipe, output = task.recipe, FORMATS[task.recipe.format]
    group_rows = max(1, GROUP_SEQUENCES * recipe.max_seq_len // recipe.row_capacity)
    data, groups = output.write(rows, group_rows)
    path = f"{task.split}/{task.number:06d}-{number:04d}{output.SUFFIX}"
    storage.publish(storage.join(task.out, path), data)
    masked = np.diff(rows.masked_offsets) if rows.masked_offsets is not None else np.zeros(1, np.int64)
    return ShardInfo(
        path=path,
        bytes=len(data),
        sha256=sha256(data).hexdigest(),
        columns_sha256=columns_sha256(rows),
        rows=len(rows),
        sequences=len(rows.sequence_lengths),
        tokens=len(rows.input_ids),
        masked_tokens=int(masked.sum()),
        not_next=0 if rows.next_sentence_label is None else int(np.count_nonzero(rows.next_sentence_label)),
        forced_not_next=forced,
        max_row_tokens=int(np.diff(rows.token_offsets).max()),
        max_sequences_per_row=int(np.diff(rows.sequence_offsets).max()),
        max_masked_per_row=int(masked.max()),
        row_groups=tuple(groups),
    )

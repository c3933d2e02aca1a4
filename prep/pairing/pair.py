"""The pair task: the documents of a partition, or of a key range of it -> sequences -> rows -> masks -> shards.

It is a function of the task alone, publishes its record last, and does nothing when the record is there.
"""

from collections.abc import Callable
from hashlib import sha256

import numpy as np

from prep.pairing.recipes import RECIPES, Limits
from prep.pairing.rows import arrange_rows, cut_shards, gather_rows
from prep.pairing.selection import read_documents
from prep.pairing.sequences import Docs, Sequences
from prep.pairing.task import PAIR_STAGE, PairTask, Recipe
from prep.progress import Progress, save_progress
from prep.records import PairRecord, finished
from prep.tally import Tally
from prep.tokens.store import Documents
from shards import storage
from shards.formats import FORMATS
from shards.gate.rows import MAX_GROUP_TOKENS
from shards.manifest import ShardInfo
from shards.masking import mask_rows
from shards.randomness import Purpose, address
from shards.schema import Ints, Rows, columns_sha256

# Sequences of a row group, if all of them had the maximum length.
GROUP_SEQUENCES = 8192


def find_pair(task: PairTask) -> PairRecord | None:
    """The record of an earlier run of the task, if its shards still are what was written; else None."""
    record = finished(task.record_url, PairRecord.load, task.shards_of)
    for shard in record.shards if record else ():
        if sha256(storage.read_bytes(storage.join(task.out, shard.path))).hexdigest() != shard.sha256:
            return None
    return record


def pair_partition(task: PairTask) -> PairRecord:
    """Builds the shards of the task, or returns the record of an earlier run whose shards are still there."""
    done = find_pair(task)
    if done:
        return done
    recipe = task.recipe
    documents, duplicates = read_documents(task)
    ids, sequences, tally = make_sequences(documents, recipe, task.copy)
    lengths = sequences.lengths(recipe.template.num_special)
    order, row_starts = arrange_rows(lengths, sequences.keys, recipe)
    shards = []
    with storage.publish_in_background() as publish:  # a shard is written while the next one is made
        for number, (first, last) in enumerate(cut_shards(lengths[order], row_starts, recipe.shard_tokens)):
            chosen = order[row_starts[first] : row_starts[last]]
            rows = gather_rows(sequences, chosen, row_starts[first : last + 1] - row_starts[first], ids, recipe)
            if recipe.masking is not None:
                rows = mask_rows(rows, address(recipe.seed, Purpose.MASK, sequences.keys[chosen]), recipe.masking)
            forced = int(np.count_nonzero(sequences.forced[chosen]))
            shards.append(_write_shard(task, number, rows, forced, publish))
            save_progress(PAIR_STAGE, task.number, Progress(tally.made * row_starts[last] // len(order), 0, 0, tally.made))
    record = PairRecord(task.split, task.copy, len(documents.keys), tally, duplicates, tuple(shards))
    record.publish(task.record_url)
    return record


def make_sequences(documents: Documents, recipe: Recipe, copy: int) -> tuple[Ints, Sequences, Tally]:
    """The ids [T] that the sequences are indices of, the sequences [S], and what became of the tokens."""
    places = address(recipe.seed, Purpose.DOCUMENT_ORDER, documents.keys)
    docs = Docs(
        order=np.argsort(places, kind="stable"),
        sentence_offsets=documents.sentence_offsets(),
        token_offsets=documents.token_offsets(),
        ids=documents.ids,
        hashes=documents.hashes,
        keys=address(recipe.seed, Purpose.PAIR, copy, documents.keys),
    )
    max_tokens = recipe.max_seq_len - recipe.template.num_special
    return RECIPES[recipe.pairing].make(docs, Limits(max_tokens, recipe.short_seq_prob, recipe.separator, recipe.overlap))


def _write_shard(task: PairTask, number: int, rows: Rows, forced: int, publish: Callable[[str, memoryview], None]) -> ShardInfo:
    recipe, output = task.recipe, FORMATS[task.recipe.format]
    group_tokens = min(GROUP_SEQUENCES * recipe.max_seq_len, MAX_GROUP_TOKENS)
    group_rows = max(1, group_tokens // recipe.row_capacity)
    data, groups = output.write(rows, group_rows)
    path = f"{task.split}/{task.number:06d}-{number:04d}{output.SUFFIX}"
    publish(storage.join(task.out, path), data)
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
        max_sequence_tokens=int(rows.sequence_lengths.max()),
        max_sequences_per_row=int(np.diff(rows.sequence_offsets).max()),
        max_masked_per_row=int(masked.max()),
        row_groups=tuple(groups),
    )

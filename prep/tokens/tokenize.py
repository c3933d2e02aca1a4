"""The first task: a unit of the corpus -> documents -> sentences -> token ids in the token store.

The result depends on the task alone. A task publishes its record last, and does nothing if the record exists already.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from prep.progress import Progress, save_progress
from prep.records import UnitRecord, finished
from prep.tokens.batches import memory_of, read_batches
from prep.tokens.encode import encode_documents
from prep.tokens.encoder import Encoder, EngineMismatchError
from prep.tokens.fast import REFERENCE
from prep.tokens.store import Documents, encode_segment, join_documents, segment_url
from prep.tokens.task import TOKENIZE_STAGE, TokenizeTask
from prep.tokens.tokenizer import load_prepared
from shards import storage
from shards.randomness import Purpose, below, combine

# A segment is written after this much text, which bounds the memory that one huge compressed file takes.
SEGMENT_BYTES = 128 << 20


@lru_cache(maxsize=2)
def _encoder(tokenizer_url: str, engine: str) -> Encoder:
    return Encoder(load_prepared(tokenizer_url), engine)


def tokenize_unit(task: TokenizeTask) -> UnitRecord:
    """Tokenizes a unit, or returns its record if that was done before.

    Raises UserError, with file and position, at a broken document unless `on_error` is `skip`.
    """
    record = finished(task.record_url, UnitRecord.load, task.segments_of)
    if record and task.accepts(record):
        return record
    try:
        record = _tokenize(task, _encoder(task.tokenizer_url, task.engine))
    except EngineMismatchError:
        record = _tokenize(task, _encoder(task.tokenizer_url, REFERENCE))
    record.publish(task.record_url)
    return record


def _tokenize(task: TokenizeTask, encoder: Encoder) -> UnitRecord:
    """Writes the unit's segments. Returns the sum of the records of its batches and segments."""
    total = UnitRecord(bucket_documents=[0] * task.num_buckets, bucket_tokens=[0] * task.num_buckets)
    total.corpora = [[0] * 4 for _ in range(task.num_corpora)]
    total.engines = {encoder.engine: 1}
    blocks: list[Documents] = []
    size = 0
    for batch in read_batches(task):
        total.add(batch.left_out)
        if batch.items:
            documents, record = encode_documents(batch.items, task, encoder)
            total.add(record)
            blocks.append(documents)
            size += sum(map(memory_of, batch.items))
        progress = Progress(batch.bytes_read, total.bytes, total.documents, total.tokens)
        save_progress(TOKENIZE_STAGE, task.unit.number, progress)
        if size >= SEGMENT_BYTES:
            total.add(_write_segment(task, len(total.segments), blocks))
            blocks, size = [], 0
    if blocks:
        total.add(_write_segment(task, len(total.segments), blocks))
    return total


def _write_segment(task: TokenizeTask, number: int, blocks: Sequence[Documents]) -> UnitRecord:
    """Writes the documents of all blocks as one segment, and returns its part of the record."""
    documents = join_documents(blocks)
    buckets = _buckets(documents, task)
    data = encode_segment(documents, buckets, task.num_buckets)
    storage.publish(segment_url(task.store, task.unit.number, number), data)
    num_tokens = np.bincount(buckets, documents.document_lengths(), minlength=task.num_buckets)
    return UnitRecord(
        segments=[len(data)],
        bucket_documents=np.bincount(buckets, minlength=task.num_buckets).tolist(),
        bucket_tokens=num_tokens.astype(np.int64).tolist(),
    )


def _buckets(documents: Documents, task: TokenizeTask) -> npt.NDArray[np.int64]:
    """[D] the bucket of each document: a train partition, or for a held-out document one of those after them."""
    bits = combine(documents.keys, np.uint64(Purpose.PARTITION))
    train = below(bits, np.uint64(task.num_partitions))
    held_out = np.uint64(task.num_partitions) + below(bits, np.uint64(max(1, task.num_eval_partitions)))
    is_held_out = documents.hashes < np.uint64(task.eval_below)
    buckets: npt.NDArray[np.int64] = np.where(is_held_out, held_out, train).astype(np.int64)
    return buckets

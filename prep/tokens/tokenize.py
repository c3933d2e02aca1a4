"""The first task: a unit of the corpus -> documents -> sentences -> token ids in the token store.

The result depends on the task alone. A task publishes its record last, and does nothing if the record exists already.
"""

from functools import lru_cache

from prep.progress import Progress, save_progress
from prep.records import UnitRecord, finished
from prep.tokens.batches import read_batches
from prep.tokens.encode import encode_documents
from prep.tokens.encoder import Encoder, EngineMismatchError
from prep.tokens.fast import REFERENCE
from prep.tokens.merge import RunMerger
from prep.tokens.sources import source_url
from prep.tokens.store import words_of
from prep.tokens.task import TOKENIZE_STAGE, TokenizeTask
from prep.tokens.tokenizer import load_prepared

# A unit with more text is sorted in runs of this much, which bounds the memory that one huge compressed file takes.
RUN_BYTES = 128 << 20


@lru_cache(maxsize=2)
def _encoder(tokenizer_url: str, engine: str) -> Encoder:
    return Encoder(load_prepared(tokenizer_url), engine)


def load_encoder(tokenizer_url: str, engine: str) -> None:
    """Loads the tokenizer into this process, for the units that will come."""
    _encoder(tokenizer_url, engine)


def tokenize_unit(task: TokenizeTask) -> UnitRecord:
    """Tokenizes a unit, or returns its record if that was done before.

    Raises UserError, with file and position, at a broken document unless `on_error` is `skip`.
    """
    record = finished(task.record_url, UnitRecord.load, task.files_of)
    if record and task.accepts(record):
        return record
    try:
        record = _tokenize(task, _encoder(task.tokenizer_url, task.engine))
    except EngineMismatchError:
        record = _tokenize(task, _encoder(task.tokenizer_url, REFERENCE))
    record.publish(task.record_url)
    return record


def _tokenize(task: TokenizeTask, encoder: Encoder) -> UnitRecord:
    """Writes the unit's file. Returns the sum of the records of its batches."""
    total = UnitRecord(engines={encoder.engine: 1})
    with RunMerger(encoder.id_type, task.places) as merger:
        size = 0
        for batch in read_batches(task):
            total.add(batch.left_out)
            if batch.files:
                documents, record = encode_documents(batch, task, encoder, total.sentences)
                total.add(record)
                merger.add(words_of(documents))
                size += batch.memory
            progress = Progress(batch.bytes_read, total.bytes, total.documents, total.tokens)
            save_progress(TOKENIZE_STAGE, task.unit.number, progress)
            if size >= RUN_BYTES:
                merger.end_run()
                size = 0
        if total.tokens:
            total.stored_documents, total.stored_bytes, total.index_bits = merger.publish(source_url(task.store, task.key))
    return total

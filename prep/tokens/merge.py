"""Files of the token store -> one file that is sorted: within a large unit, and between units.

RunMerger      a tokenize task adds documents to it; runs of a large unit wait in a temporary folder
merge_units    the task between tokenize and pair, where units and partitions are too many to exchange directly: the
               documents of some units, in one range of places -> one file
"""

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import numpy as np

from prep.records import MergeRecord, finished
from prep.tokens.sources import Sources, load_sources, make_sources, read_places, source_url
from prep.tokens.store import (
    LAST_PLACE,
    PlaceRange,
    Places,
    StoredDocuments,
    Words,
    encode_index,
    in_range,
    index_bits,
    parts_of,
    store_file,
)
from shards import storage
from shards.schema import Offsets

MERGE_STAGE = 3
# What is merged at once of the runs of a unit.
CHUNK_BYTES = 64 << 20


@dataclass(frozen=True)
class MergeTask:
    """The units `first_unit` to `last_unit` of a list, and the places from `first` to `last`, both included."""

    number: int
    key: str  # the merged file in the store is called so
    store: str
    sources: str  # the URL of the list
    first_unit: int
    last_unit: int
    first: int
    last: int
    places: Places
    id_type: np.dtype[np.integer]

    @property
    def name(self) -> str:
        """The name of the task in messages."""
        return f"merging units {self.first_unit} to {self.last_unit}"

    @property
    def record_url(self) -> str:
        """Where the task's record is once it is done."""
        return storage.join(self.store, f"{self.key}.json")

    def files_of(self, record: MergeRecord) -> list[tuple[str, int]]:
        """The URL and the size in bytes of the file that the record names."""
        return [(source_url(self.store, self.key), record.bytes)] if record.bytes else []


def merge_units(task: MergeTask) -> MergeRecord:
    """Merges the units of the task, or returns the record of an earlier run."""
    record = finished(task.record_url, MergeRecord.load, task.files_of)
    if record:
        return record
    sources = load_sources(task.sources)[task.first_unit : task.last_unit + 1]
    stored = read_places(task.store, sources, task.first, task.last, task.id_type)
    file = store_file(stored, task.places, task.first, task.last)
    if file.documents:
        storage.publish(source_url(task.store, task.key), file.data)
    record = MergeRecord(file.documents, len(file.data) if file.documents else 0, file.bits)
    record.publish(task.record_url)
    return record


class RunMerger(AbstractContextManager["RunMerger"]):
    """Collects documents in any order and publishes them sorted. It holds one run in memory; others are files on a disk."""

    def __init__(self, id_type: np.dtype[np.integer], places: Places) -> None:
        self._id_type, self._places = id_type, places
        self._blocks: list[Words] = []
        self._runs: list[tuple[str, int, int, int, int]] = []
        self._num_documents = 0
        self._cleanup = ExitStack()
        self._folder = ""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._cleanup.close()

    def add(self, words: Words) -> None:
        """Takes documents."""
        self._blocks.append(words)

    def end_run(self) -> None:
        """Sorts what is in memory and writes it to the temporary folder."""
        if not self._folder:
            self._folder = self._cleanup.enter_context(storage.temporary_folder())
        file = store_file(StoredDocuments(self._take(), self._id_type), self._places)
        name = f"run-{len(self._runs):06d}"
        Path(source_url(self._folder, name)).write_bytes(file.data)
        self._runs.append((name, 0, LAST_PLACE, file.bits, len(file.data)))
        self._num_documents += file.documents

    def publish(self, url: str) -> tuple[int, int, int]:
        """Publishes all documents as one file. Returns their number, the bytes of the file and the bits of its index."""
        if not self._runs:
            file = store_file(StoredDocuments(self._take(), self._id_type), self._places)
            storage.publish(url, file.data)
            return file.documents, len(file.data), file.bits
        if self._blocks:
            self.end_run()
        path = Path(self._folder) / "merged"
        bits = index_bits(self._num_documents)
        self._merge_runs(path, bits)
        storage.publish_file(url, path)
        return self._num_documents, path.stat().st_size, bits

    def _take(self) -> Words:
        words: Words = np.concatenate([np.empty(0, np.uint64), *self._blocks])
        self._blocks = []
        return words

    def _merge_runs(self, path: Path, bits: int) -> None:
        """Writes the documents of all runs, one range of places after the other, and the index."""
        sources, span = make_sources(self._runs), PlaceRange(0, LAST_PLACE, bits)
        num_chunks = -(-int(sources["bytes"].sum()) // CHUNK_BYTES)
        edges = [(number << 64) // num_chunks for number in range(num_chunks + 1)]
        num_words = np.zeros(1 << bits, np.int64)
        with open(path, "wb") as file:
            file.write(encode_index(np.arange(1 << bits), num_words, bits))
            for first, end in pairwise(edges):
                words, parts, sizes = self._sorted(sources, first, end - 1, span)
                file.write(words.tobytes())
                num_words += np.bincount(parts, sizes, minlength=1 << bits).astype(np.int64)
            file.seek(0)
            file.write(encode_index(np.arange(1 << bits), num_words, bits))

    def _sorted(self, sources: Sources, first: int, last: int, span: PlaceRange) -> tuple[Words, Offsets, Offsets]:
        """The documents with places from `first` to `last`: their words, the part of each, and its number of words."""
        stored = read_places(self._folder, sources, first, last, self._id_type)
        order, values = in_range(stored, self._places, first, last)
        words, starts = stored.words_of(order)
        return words, parts_of(values, span), np.diff(starts)

"""Token stores made by hand, and what is in a store."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from prep.tokens.sources import Sources, make_sources, publish_sources, read_places, source_url, sources_url
from prep.tokens.store import LAST_PLACE, Documents, Places, StoredDocuments, store_file, words_of
from shards import storage

IDS = np.dtype(np.uint16)


def make_documents(shapes: list[list[int]], first_key: int = 100) -> Documents:
    """A document for each list of sentence lengths; every token id is different."""
    lengths = [length for shape in shapes for length in shape]
    return Documents(
        keys=np.arange(first_key, first_key + len(shapes), dtype=np.uint64),
        hashes=np.arange(len(shapes), dtype=np.uint64) * np.uint64(7) + np.uint64(1 << 63),
        num_bytes=np.arange(1, len(shapes) + 1, dtype=np.uint32) * 11,
        num_sentences=np.array([len(shape) for shape in shapes], np.uint32),
        sentence_lengths=np.array(lengths, np.uint32),
        ids=np.arange(sum(lengths), dtype=np.uint16),
    )


def as_lists(documents: Documents) -> list[tuple[int, int, int, list[int], list[int]]]:
    sentences, tokens = documents.sentence_offsets(), documents.token_offsets()
    return [
        (
            int(documents.keys[d]),
            int(documents.hashes[d]),
            int(documents.num_bytes[d]),
            documents.sentence_lengths[sentences[d] : sentences[d + 1]].tolist(),
            documents.ids[tokens[sentences[d]] : tokens[sentences[d + 1]]].tolist(),
        )
        for d in range(len(documents.keys))
    ]


def write_store(folder: Path, units: Iterable[Documents], places: Places) -> Sources:
    """A store with one file per unit, and the list of them."""
    rows = []
    for number, documents in enumerate(units):
        file = store_file(StoredDocuments(words_of(documents), documents.ids.dtype), places)
        storage.publish(source_url(str(folder), f"unit-{number}"), file.data)
        rows.append((f"unit-{number}", 0, LAST_PLACE, file.bits, len(file.data)))
    sources = make_sources(rows)
    publish_sources(str(folder), sources)
    return sources


def list_of(folder: Path, sources: Sources) -> str:
    """The URL of a list in the store."""
    return sources_url(str(folder), sources)


def stored_documents(folder: Path, files: Iterable[tuple[str, int, int]], id_type: np.dtype[np.integer] = IDS) -> Documents:
    """All documents of files, each given by its name, the bits of its index and its bytes, in the order of their keys."""
    sources = make_sources([(name, 0, LAST_PLACE, bits, num_bytes) for name, bits, num_bytes in files])
    stored = read_places(str(folder), sources, 0, LAST_PLACE, id_type)
    return stored.documents(np.argsort(stored.keys, kind="stable"))

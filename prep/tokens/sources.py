"""The files of the token store that tasks read: a list of them in columns, and the documents of a range of places.

The list is a file in the store itself, `sources-DIGEST.bin`, because a large corpus has too many files to name them in each
task. DIGEST is a hash of its content.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from prep.tokens.layout import WORD_BYTES
from prep.tokens.store import ENTRY, PlaceRange, StoredDocuments, Words, damaged, decode_index
from shards import storage
from shards.schema import lengths_to_offsets

# One file: its name without the ending, the places that it may hold, the bits of its index, its size.
SOURCE = np.dtype([("name", "S64"), ("first", "<u8"), ("last", "<u8"), ("bits", "<u8"), ("bytes", "<u8")])
Sources = npt.NDArray[np.void]
# A smaller file is read whole, in one request.
WHOLE_BYTES = 64 << 10
# So many files are read at once by each of so many threads, which bounds the requests that are under way.
_BATCH, _THREADS = 64, 4


def source_url(folder: str, name: str) -> str:
    """The place of a file of the store."""
    return storage.join(folder, f"{name}.tokens")


def make_sources(rows: Sequence[tuple[str, int, int, int, int]]) -> Sources:
    """A list of files, in the order that their documents have: see SOURCE. Empty files are left out."""
    sources = np.array([(name.encode(), *numbers) for name, *numbers in rows], SOURCE)
    return sources[sources["bytes"] > 0]


def digest_of(sources: Sources) -> str:
    """A hash of a list."""
    return sha256(sources.tobytes()).hexdigest()[:32]


def sources_url(store: str, sources: Sources) -> str:
    """The place of a list."""
    return storage.join(store, f"sources-{digest_of(sources)}.bin")


def publish_sources(store: str, sources: Sources) -> None:
    """Writes a list, unless it is there."""
    url = sources_url(store, sources)
    if not storage.find(url):
        storage.publish(url, sources.tobytes())


@lru_cache(maxsize=2)
def load_sources(url: str) -> Sources:
    """The list at `url`. Raises StorageError if it is damaged."""
    sources = np.frombuffer(storage.read_bytes(url), SOURCE)
    if sources_url(url.rpartition("/")[0], sources) != url:
        raise damaged(url, "the list")
    return sources


def read_places(folder: str, sources: Sources, first: int, last: int, id_type: np.dtype[np.integer]) -> StoredDocuments:
    """The documents of all files with places from `first` to `last`, and a few beyond them, in the order of the files.

    Each file takes two requests, one if it is small. Raises StorageError if a file is damaged.
    """
    chosen = sources[(sources["first"] <= np.uint64(last)) & (sources["last"] >= np.uint64(first))]
    parts = [_part(folder, row, first, last) for row in chosen.tolist()]
    batches = [parts[start : start + _BATCH] for start in range(0, len(parts), _BATCH)]
    with ThreadPoolExecutor(_THREADS) as threads:
        content = [data for batch in threads.map(_read, batches) for data in batch]
    words: Words = np.concatenate([np.empty(0, np.uint64), *(np.frombuffer(data, "<u8") for data in content)])
    edges = lengths_to_offsets(np.array([len(data) // WORD_BYTES for data in content], np.int64))
    del content
    stored = _checked(words, id_type)
    if stored is None:
        files = zip(parts, edges[:-1], edges[1:], strict=True)
        url = next(part.url for part, start, stop in files if _checked(words[start:stop], id_type) is None)
        raise damaged(url, "a document")
    return stored


def _checked(words: Words, id_type: np.dtype[np.integer]) -> StoredDocuments | None:
    """The documents that the words are; None if they are damaged."""
    try:
        stored = StoredDocuments(words, id_type)
        stored.check()
    except ValueError:
        return None
    return stored


class _Part(NamedTuple):
    """What is read of a file: the entries [first, last] of its index, and the documents between them."""

    url: str
    first: int
    last: int
    bytes: int  # of the whole file

    @property
    def is_whole(self) -> bool:
        return self.bytes <= WHOLE_BYTES

    def index_range(self) -> tuple[str, int, int]:
        """URL, start and length."""
        size = ENTRY.itemsize
        return (
            (self.url, 0, self.bytes) if self.is_whole else (self.url, size * self.first, size * (self.last + 1 - self.first))
        )


def _part(folder: str, row: tuple[Any, ...], first: int, last: int) -> _Part:
    name, *span, num_bytes = row
    places = PlaceRange(*span)
    return _Part(source_url(folder, name.decode()), places.part_of(first), places.part_of(last) + 1, num_bytes)


def _read(parts: Sequence[_Part]) -> list[bytes]:
    """The documents of each part."""
    heads = storage.read_ranges([part.index_range() for part in parts])
    edges = [_edges(part, head) for part, head in zip(parts, heads, strict=True)]
    requested = [(part.url, start, stop - start) for part, (start, stop) in zip(parts, edges, strict=True) if not part.is_whole]
    fetched: Iterator[bytes] = iter(storage.read_ranges(requested))
    return [
        head[start:stop] if part.is_whole else next(fetched)
        for part, head, (start, stop) in zip(parts, heads, edges, strict=True)
    ]


def _edges(part: _Part, head: bytes) -> tuple[int, int]:
    """Where the documents of a part begin and end in the file."""
    size = ENTRY.itemsize
    entries = head[size * part.first : size * (part.last + 1)] if part.is_whole else head
    offsets = decode_index(entries, part.first, part.url)
    return int(offsets[0]), int(offsets[-1])

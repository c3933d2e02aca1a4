"""The token store: the tokens that the tokenize stage leaves for the pair stage, in buckets, one for each partition.

A segment of a unit is one file: an index of num_buckets + 1 entries, then the buckets. Thus a run of buckets takes two range
reads. Entry b of the index is where bucket b starts, which is where the bucket before it ends:

    uint64   offset in the file
    uint64   CRC-32 of b"TOKSTOR3", b and the offset (each uint64), so that any part of the index checks itself

A bucket holds plain little-endian arrays, in this order:

    uint64   CRC-32 of what follows; number of documents, of sentences, of tokens
    uint64   key of each document, then content hash of each document
    uint32   bytes of text of each document, then number of sentences of each document
    uint32   number of tokens of each sentence
    ids      the token ids (uint16 or uint32), then zeros up to a multiple of 8 bytes
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from shards import storage
from shards.schema import Ints, Offsets, lengths_to_offsets

STORE_VERSION = 3
# Segments that are read together: a large corpus has thousands, and a pair task needs a few kB of each.
READ_AT_ONCE = 128
_MAGIC = b"TOKSTOR3"
_ENTRY = np.dtype([("offset", "<u8"), ("crc", "<u8")])
_ALIGNMENT = 8
_NUM_COUNTS = 4  # at the start of a bucket, the CRC included


@dataclass(frozen=True)
class Documents:
    """D documents of S sentences of T tokens, as flat arrays."""

    keys: npt.NDArray[np.uint64]  # [D] from the position in the corpus, or from the content
    hashes: npt.NDArray[np.uint64]  # [D] of the content
    num_bytes: Ints  # [D] of UTF-8 text; 0 for the second and later copies of a document
    num_sentences: Ints  # [D]
    sentence_lengths: Ints  # [S] in tokens, all above 0
    ids: Ints  # [T]

    def sentence_offsets(self) -> Offsets:
        """[D + 1]: document d has the sentences [offsets[d], offsets[d + 1])."""
        return lengths_to_offsets(self.num_sentences)

    def token_offsets(self) -> Offsets:
        """[S + 1]: sentence s has the tokens [offsets[s], offsets[s + 1])."""
        return lengths_to_offsets(self.sentence_lengths)

    def document_lengths(self) -> Offsets:
        """[D]: the number of tokens of each document."""
        return np.diff(self.token_offsets()[self.sentence_offsets()])

    def take(self, indices: npt.NDArray[np.integer]) -> "Documents":
        """The documents at `indices` [any number, repeats allowed], in that order."""
        sentences = self.sentence_offsets()
        sentence_index = ranges(sentences[indices], sentences[indices + 1])
        tokens = self.token_offsets()
        token_index = ranges(tokens[sentences[indices]], tokens[sentences[indices + 1]])
        return Documents(
            self.keys[indices],
            self.hashes[indices],
            self.num_bytes[indices],
            self.num_sentences[indices],
            self.sentence_lengths[sentence_index],
            self.ids[token_index],
        )


def segment_url(store: str, unit: int, segment: int) -> str:
    """The place of a segment of a unit's tokens."""
    return storage.join(store, f"unit-{unit:06d}-{segment:04d}.tokens")


def ranges(starts: Ints, stops: Ints) -> Offsets:
    """The indices of all [starts[i], stops[i]), one range after the other."""
    lengths = stops - starts
    offsets = lengths_to_offsets(lengths)
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)


def join_documents(blocks: Sequence[Documents]) -> Documents:
    """The documents of all blocks, in order. There must be at least one block."""
    names = [f.name for f in fields(Documents)]
    return Documents(*(np.concatenate([getattr(block, name) for block in blocks]) for name in names))


def empty_documents(id_type: np.dtype[np.integer]) -> Documents:
    """No documents."""
    return Documents(*(np.empty(0, kind) for kind in ("u8", "u8", "u4", "u4", "u4", id_type)))


def encode_segment(documents: Documents, buckets: Ints, num_buckets: int) -> bytearray:
    """The bytes of a segment. Document d goes into bucket `buckets[d]`; within a bucket, documents keep their order."""
    order = np.argsort(buckets, kind="stable")
    documents = documents.take(order)
    edges = np.searchsorted(buckets[order], np.arange(num_buckets + 1))
    sentence_edges = documents.sentence_offsets()[edges]
    token_edges = documents.token_offsets()[sentence_edges]
    index = np.empty(num_buckets + 1, _ENTRY)
    segment = bytearray(index.nbytes)
    for bucket in range(num_buckets):
        index["offset"][bucket] = len(segment)
        if edges[bucket] < edges[bucket + 1]:
            segment += _encode_bucket(documents, *(e[bucket : bucket + 2] for e in (edges, sentence_edges, token_edges)))
    index["offset"][num_buckets] = len(segment)
    index["crc"] = _index_crcs(index["offset"], 0)
    segment[: index.nbytes] = index.tobytes()
    return segment


def _index_crcs(offsets: Ints, first: int) -> list[int]:
    """The CRC-32 of each index entry from number `first` on, which has these offsets."""
    entries = enumerate(offsets.tolist(), first)
    return [zlib.crc32(_MAGIC + np.array([number, offset], "<u8").tobytes()) for number, offset in entries]


def _encode_bucket(documents: Documents, edges: Offsets, sentence_edges: Offsets, token_edges: Offsets) -> bytes:
    """The bytes of one bucket: of the documents, sentences and tokens between each two edges [2]."""
    first, last = edges
    s_first, s_last = sentence_edges
    t_first, t_last = token_edges
    parts = (
        np.array([last - first, s_last - s_first, t_last - t_first], "<u8"),
        documents.keys[first:last].astype("<u8"),
        documents.hashes[first:last].astype("<u8"),
        documents.num_bytes[first:last].astype("<u4"),
        documents.num_sentences[first:last].astype("<u4"),
        documents.sentence_lengths[s_first:s_last].astype("<u4"),
        documents.ids[t_first:t_last],
    )
    content = b"".join(part.tobytes() for part in parts)
    content += b"\0" * (-len(content) % _ALIGNMENT)
    return zlib.crc32(content).to_bytes(8, "little") + content


def read_buckets(urls: Sequence[str], first: int, last: int, id_type: np.dtype[np.integer]) -> Iterator[Documents]:
    """The documents of buckets [first, last) of all segments: one block per bucket, in order, two range reads per segment.

    Raises StorageError if a segment is damaged.
    """
    for start in range(0, len(urls), READ_AT_ONCE):
        batch = urls[start : start + READ_AT_ONCE]
        size = _ENTRY.itemsize
        indexes = storage.read_ranges([(url, size * first, size * (last - first + 1)) for url in batch])
        edges = [_decode_index(index, first, url) for url, index in zip(batch, indexes, strict=True)]
        parts = storage.read_ranges([(url, e[0], e[-1] - e[0]) for url, e in zip(batch, edges, strict=True)])
        for url, offsets, data in zip(batch, edges, parts, strict=True):
            for begin, end in pairwise(offsets):
                if begin < end:
                    yield _decode_bucket(data[begin - offsets[0] : end - offsets[0]], id_type, url)


def _decode_index(index: bytes, first: int, url: str) -> list[int]:
    """The offsets in entries `first` and later of a segment's index."""
    entries = np.frombuffer(index, _ENTRY)
    if entries["crc"].tolist() != _index_crcs(entries["offset"], first):
        raise _damaged(url, "its index")
    offsets: list[int] = entries["offset"].tolist()
    return offsets


def _decode_bucket(data: bytes, id_type: np.dtype[np.integer], url: str) -> Documents:
    crc, num_documents, num_sentences, num_tokens = (int(n) for n in np.frombuffer(data, "<u8", _NUM_COUNTS))
    if zlib.crc32(memoryview(data)[8:]) != crc:
        raise _damaged(url, "a bucket")
    layout = (
        ("<u8", num_documents),
        ("<u8", num_documents),
        ("<u4", num_documents),
        ("<u4", num_documents),
        ("<u4", num_sentences),
        (id_type, num_tokens),
    )
    arrays, at = [], 8 * _NUM_COUNTS
    for kind, count in layout:
        arrays.append(np.frombuffer(data, kind, count, at))
        at += arrays[-1].nbytes
    return Documents(*arrays)


def _damaged(url: str, part: str) -> storage.StorageError:
    return storage.StorageError(f"{url}: {part} is damaged; run `prep clean` on the scratch folder, and build again")

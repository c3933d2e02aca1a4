"""The token store: what the tokenize stage leaves for the pair stage, in partition buckets.

A unit's segment is one file: a header, the offsets of its buckets (num_buckets + 1 of uint64), then the buckets, so that a
run of buckets is two reads by range. A bucket is plain little-endian arrays: the CRC-32 of what follows and the counts of
documents, sentences and tokens (uint64), the documents' keys and content hashes (uint64), their bytes of text and numbers of
sentences (uint32), the sentences' numbers of tokens (uint32), and the token ids; then zeros up to a multiple of 8 bytes.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from shards import storage
from shards.schema import Ints, Offsets, lengths_to_offsets

STORE_VERSION = 2
_MAGIC = b"TOKSTOR2"
_ALIGNMENT = 8
READ_AT_ONCE = 128
"""Segments: of a large corpus there are thousands, of which a pair task reads a few kB each."""
_COUNTS = 4


@dataclass(frozen=True)
class Documents:
    """D documents of S sentences of T tokens, as flat arrays."""

    keys: npt.NDArray[np.uint64]  # [D] of the place in the corpus
    hashes: npt.NDArray[np.uint64]  # [D] of the content
    num_bytes: Ints  # [D] of UTF-8 text; 0 for a further copy that a weight asked for
    num_sentences: Ints  # [D]
    sentence_lengths: Ints  # [S] in tokens, none 0
    ids: Ints  # [T]

    def sentence_offsets(self) -> Offsets:
        """[D + 1] where each document's sentences begin."""
        return lengths_to_offsets(self.num_sentences)

    def token_offsets(self) -> Offsets:
        """[S + 1] where each sentence's tokens begin."""
        return lengths_to_offsets(self.sentence_lengths)

    def take(self, chosen: npt.NDArray[np.integer]) -> "Documents":
        """The chosen documents, in that order."""
        sentences = self.sentence_offsets()
        sentence_index = ranges(sentences[chosen], sentences[chosen + 1])
        tokens = self.token_offsets()
        token_index = ranges(tokens[sentences[chosen]], tokens[sentences[chosen + 1]])
        return Documents(
            self.keys[chosen],
            self.hashes[chosen],
            self.num_bytes[chosen],
            self.num_sentences[chosen],
            self.sentence_lengths[sentence_index],
            self.ids[token_index],
        )


def segment_url(store: str, unit: int, segment: int) -> str:
    """Where a segment of a unit's tokens is."""
    return storage.join(store, f"unit-{unit:06d}-{segment:04d}.tokens")


def ranges(starts: Ints, stops: Ints) -> Offsets:
    """The indices of all [start, stop), one range after the other."""
    lengths = stops - starts
    offsets = lengths_to_offsets(lengths)
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)


def join_documents(blocks: Sequence[Documents]) -> Documents:
    """All documents, block after block."""
    names = [f.name for f in fields(Documents)]
    return Documents(*(np.concatenate([getattr(block, name) for block in blocks]) for name in names))


def empty_documents(id_type: np.dtype[np.integer]) -> Documents:
    """No documents."""
    return Documents(*(np.empty(0, kind) for kind in ("u8", "u8", "u4", "u4", "u4", id_type)))


def encode_segment(documents: Documents, buckets: Ints, num_buckets: int) -> bytearray:
    """The bytes of a segment; `buckets[d]` says where document d goes. In a bucket documents keep their order."""
    order = np.argsort(buckets, kind="stable")
    sorted_documents = documents.take(order)
    edges = np.searchsorted(buckets[order], np.arange(num_buckets + 1))
    sentences = sorted_documents.sentence_offsets()
    tokens = sorted_documents.token_offsets()
    out = bytearray(len(_MAGIC) + 8 * (num_buckets + 1))
    out[: len(_MAGIC)] = _MAGIC
    offsets: npt.NDArray[np.uint64] = np.empty(num_buckets + 1, "<u8")
    for bucket in range(num_buckets):
        offsets[bucket] = len(out)
        first, last = edges[bucket], edges[bucket + 1]
        if first == last:
            continue
        s_first, s_last = sentences[first], sentences[last]
        t_first, t_last = tokens[s_first], tokens[s_last]
        parts = (
            np.array([last - first, s_last - s_first, t_last - t_first], "<u8"),
            sorted_documents.keys[first:last].astype("<u8"),
            sorted_documents.hashes[first:last].astype("<u8"),
            sorted_documents.num_bytes[first:last].astype("<u4"),
            sorted_documents.num_sentences[first:last].astype("<u4"),
            sorted_documents.sentence_lengths[s_first:s_last].astype("<u4"),
            sorted_documents.ids[t_first:t_last],
        )
        content = b"".join(part.tobytes() for part in parts)
        content += b"\0" * (-len(content) % _ALIGNMENT)
        out += zlib.crc32(content).to_bytes(8, "little") + content
    offsets[num_buckets] = len(out)
    out[len(_MAGIC) : len(_MAGIC) + offsets.nbytes] = offsets.tobytes()
    return out


def read_buckets(urls: Sequence[str], first: int, last: int, id_type: np.dtype[np.integer]) -> Iterator[Documents]:
    """The documents of buckets [first, last) of all segments, a block a bucket, in order; two reads by range a segment.

    Raises StorageError when one is damaged.
    """
    for start in range(0, len(urls), READ_AT_ONCE):
        batch = urls[start : start + READ_AT_ONCE]
        indexes = storage.read_ranges([(url, len(_MAGIC) + 8 * first, 8 * (last - first + 1)) for url in batch])
        offsets = [np.frombuffer(index, "<u8").astype(np.int64) for index in indexes]
        parts = storage.read_ranges(
            [(url, int(edges[0]), int(edges[-1] - edges[0])) for url, edges in zip(batch, offsets, strict=True)]
        )
        for url, edges, data in zip(batch, offsets, parts, strict=True):
            for begin, end in pairwise((edges - edges[0]).tolist()):
                if begin < end:
                    yield _decode_bucket(data, begin, end, id_type, url)


def _decode_bucket(data: bytes, start: int, stop: int, id_type: np.dtype[np.integer], url: str) -> Documents:
    crc, num_documents, num_sentences, num_tokens = (int(n) for n in np.frombuffer(data, "<u8", _COUNTS, start))
    if zlib.crc32(memoryview(data)[start + 8 : stop]) != crc:
        raise storage.StorageError(f"{url}: a bucket is damaged; run `prep clean` on the scratch folder and build again")
    layout = (
        ("<u8", num_documents),
        ("<u8", num_documents),
        ("<u4", num_documents),
        ("<u4", num_documents),
        ("<u4", num_sentences),
        (id_type, num_tokens),
    )
    arrays, at = [], start + 8 * _COUNTS
    for kind, count in layout:
        arrays.append(np.frombuffer(data, kind, count, at))
        at += arrays[-1].nbytes
    return Documents(*arrays)

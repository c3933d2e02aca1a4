"""The token store: the tokens that the tokenize stage leaves for the pair stage, in one file for each unit.

A document's place, a number of 64 bits, follows from its key: see Places. A file has an index of 2**bits + 1 entries, then
the documents in the order of their places (see `layout`). The places between a file's first and last possible one are
divided into 2**bits equal ranges. Entry r of the index is where the documents of range r begin, which is where those of the
range before end. So the documents of any range of places take two range reads: a partition is such a range, and a store
serves any number of partitions.

    uint64   offset in the file
    uint64   a hash of b"TOKSTOR4", r and the offset, so that any part of the index checks itself
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prep.tokens import layout
from shards import storage
from shards.randomness import Purpose, combine
from shards.schema import Ints, Offsets, lengths_to_offsets

STORE_VERSION = 4
LAST_PLACE = (1 << 64) - 1
ENTRY = np.dtype([("offset", "<u8"), ("check", "<u8")])
_MAGIC = np.uint64(int.from_bytes(b"TOKSTOR4", "little"))
_MAX_BITS = 16
# Places have 48 bits from the key, above which the train split has some of 2**16 steps, and the eval split the rest.
_STEP_BITS, _STEPS = 48, 1 << 16
Words = npt.NDArray[np.uint64]


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


def ranges(starts: Ints, stops: Ints) -> Offsets:
    """The indices of all [starts[i], stops[i]), one range after the other."""
    lengths = stops - starts
    offsets = lengths_to_offsets(lengths)
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)


class Places(NamedTuple):
    """How places follow from keys: those of the train split are the first `train_steps` of 65,536 equal parts."""

    train_steps: int
    held_out_below: int  # documents with a smaller content hash are held out

    @staticmethod
    def make(eval_fraction: float) -> "Places":
        """The places that hold out this fraction of the documents, by their content."""
        return Places(_STEPS - math.ceil(eval_fraction * _STEPS), int(eval_fraction * 2.0**64))

    @property
    def train_end(self) -> int:
        """Where the places of the train split end, and those of the eval split begin."""
        return self.train_steps << _STEP_BITS

    def of(self, keys: Words, hashes: Words) -> Words:
        """The places of documents, by their keys and content hashes."""
        bits = combine(keys, np.uint64(Purpose.PARTITION)) >> np.uint64(64 - _STEP_BITS)
        train, held_out = bits * np.uint64(self.train_steps), bits * np.uint64(_STEPS - self.train_steps)
        is_held_out = hashes < np.uint64(self.held_out_below)
        places: Words = np.where(is_held_out, np.uint64(self.train_end % (1 << 64)) + held_out, train)
        return places


class PlaceRange(NamedTuple):
    """The places from `first` to `last`, both included, and the 2**bits parts that an index divides them into."""

    first: int
    last: int
    bits: int

    @property
    def step(self) -> int:
        """How many places a part has, but for the last one."""
        return -(-(self.last - self.first + 1) >> self.bits)

    def part_of(self, place: int) -> int:
        """The number of the part that a place is in; the nearest one for a place outside."""
        return int((min(max(place, self.first), self.last) - self.first) // self.step)


class StoredDocuments:
    """Documents as they are in files of the store, one after the other."""

    def __init__(self, words: Words, id_type: np.dtype[np.integer]) -> None:
        """Raises ValueError if the words are not those of whole documents."""
        self._words, self._halves, self._id_type = words, words.view("<u4"), id_type
        starts = np.empty(len(words) // (layout.HEADER_BYTES // layout.WORD_BYTES) + 2, np.int64)
        count = layout.find_documents(self._halves, id_type.itemsize, starts)
        if count == layout.NONE:
            raise ValueError("a document ends in another place")
        self._starts = starts[: count + 1]
        heads = self._starts[:-1]
        self.keys: Words = words[heads]
        self.hashes: Words = words[heads + 1]
        self.num_bytes, self.num_sentences, self.num_tokens = (self._halves[2 * heads + number] for number in (4, 5, 6))

    def check(self) -> None:
        """Raises ValueError if a document is damaged."""
        if layout.find_damage(self._words, self._halves, self._starts) != layout.NONE:
            raise ValueError("the checksum of a document does not match")

    def words_of(self, order: npt.NDArray[np.int64]) -> tuple[Words, Offsets]:
        """The words of the documents `order`, and where each of them begins there."""
        starts = lengths_to_offsets(np.diff(self._starts)[order])
        words: Words = np.empty(starts[-1], np.uint64)
        layout.copy_documents(words, self._words, self._starts, order)
        return words, starts

    def documents(self, order: npt.NDArray[np.int64]) -> Documents:
        """The documents `order`, as arrays. Raises ValueError if their sentences have another number of tokens than they."""
        num_sentences, num_tokens = self.num_sentences[order], self.num_tokens[order]
        sentence_offsets, token_offsets = lengths_to_offsets(num_sentences), lengths_to_offsets(num_tokens)
        lengths = np.empty(sentence_offsets[-1], np.uint32)
        ids = np.empty(token_offsets[-1], self._id_type)
        source = self._words.view(self._id_type)
        if not layout.read_documents(self._halves, source, self._starts, order, sentence_offsets, lengths, token_offsets, ids):
            raise ValueError("the sentences of a document have another number of tokens than it has")
        return Documents(self.keys[order], self.hashes[order], self.num_bytes[order], num_sentences, lengths, ids)


def words_of(documents: Documents) -> Words:
    """The documents as they are in a file of the store, in their order."""
    order = np.arange(len(documents.keys))
    sentence_offsets, token_offsets = documents.sentence_offsets(), documents.token_offsets()
    num_tokens = np.diff(token_offsets[sentence_offsets])
    starts = lengths_to_offsets(layout.num_words(np.diff(sentence_offsets), num_tokens, documents.ids.itemsize))
    words: Words = np.zeros(starts[-1], np.uint64)
    layout.write_documents(
        words,
        words.view("<u4"),
        words.view(documents.ids.dtype),
        starts,
        order,
        documents.keys,
        documents.hashes,
        documents.num_bytes,
        sentence_offsets,
        documents.sentence_lengths,
        token_offsets,
        documents.ids,
    )
    return words


class StoreFile(NamedTuple):
    """The content of a file of the store, the bits of its index, and the number of its documents."""

    data: bytes
    bits: int
    documents: int


def store_file(stored: StoredDocuments, places: Places, first: int = 0, last: int = LAST_PLACE) -> StoreFile:
    """The file of the documents whose places are from `first` to `last`. Those with equal places keep their order."""
    order, values = in_range(stored, places, first, last)
    words, starts = stored.words_of(order)
    span = PlaceRange(first, last, index_bits(len(order)))
    return StoreFile(encode_index(parts_of(values, span), np.diff(starts), span.bits) + words.tobytes(), span.bits, len(order))


def in_range(stored: StoredDocuments, places: Places, first: int, last: int) -> tuple[npt.NDArray[np.int64], Words]:
    """The documents whose places are from `first` to `last`, in the order of the places, and their places."""
    values = places.of(stored.keys, stored.hashes)
    order = np.argsort(values, kind="stable")
    values = values[order]
    begin, end = np.searchsorted(values, np.uint64(first)), np.searchsorted(values, np.uint64(last), "right")
    return order[begin:end], values[begin:end]


def index_bits(num_documents: int) -> int:
    """The bits of the index of a file: it has about as many parts as documents, and at most 65,536."""
    return min(max((num_documents - 1).bit_length(), 1), _MAX_BITS)


def parts_of(places: Words, span: PlaceRange) -> npt.NDArray[np.int64]:
    """The number of the part that each place is in."""
    return ((places - np.uint64(span.first)) // np.uint64(span.step)).astype(np.int64)


def encode_index(parts: npt.NDArray[np.int64], num_words: Ints, bits: int) -> bytes:
    """The index of a file of documents, by the part that each is in, and its words."""
    words = np.bincount(parts, num_words, minlength=1 << bits).astype(np.int64)
    index = np.empty((1 << bits) + 1, ENTRY)
    index["offset"] = index.nbytes + layout.WORD_BYTES * lengths_to_offsets(words)
    index["check"] = _checks(index["offset"], 0)
    return index.tobytes()


def decode_index(data: bytes, first: int, url: str) -> npt.NDArray[np.int64]:
    """The offsets in entries `first` and later of a file's index. Raises StorageError if one is damaged."""
    entries = np.frombuffer(data, ENTRY)
    if not np.array_equal(entries["check"], _checks(entries["offset"], first)) or (np.diff(entries["offset"]) < 0).any():
        raise damaged(url, "its index")
    return entries["offset"].astype(np.int64)


def _checks(offsets: Words, first: int) -> Words:
    numbers = np.arange(first, first + len(offsets), dtype=np.uint64)
    checks: Words = combine(combine(np.full_like(numbers, _MAGIC), numbers), offsets)
    return checks


def damaged(url: str, part: str) -> storage.StorageError:
    """The error of a damaged file of the store."""
    return storage.StorageError(f"{url}: {part} is damaged; run `prep clean` on the scratch folder, and build again")

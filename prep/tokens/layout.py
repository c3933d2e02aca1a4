"""The bytes of a document in the token store, in compiled loops.

    uint64   key
    uint64   content hash
    uint32   bytes of text, number of sentences, number of tokens, checksum
    uint32   number of tokens of each sentence
    ids      the token ids (uint16 or uint32), then zeros up to a multiple of 8 bytes

All numbers are little-endian. The checksum is of the document's words of 8 bytes, with zeros in its own place: each word is
mixed in by an exclusive or and a multiplication by an odd number, as FNV-1a does it.
"""

from typing import Any

import numpy as np

from shards.compiled import compiled

HEADER_BYTES, WORD_BYTES = 32, 8
# What `find_documents` returns of damaged bytes, and `find_damage` of sound ones.
NONE = -1
_HEADER_WORDS = HEADER_BYTES // WORD_BYTES
_START, _FACTOR = np.uint64(0xCBF29CE484222325), np.uint64(0x9E3779B97F4A7C15)
_LOW, _S32 = np.uint64(0xFFFFFFFF), np.uint64(32)


@compiled
def num_words(num_sentences: Any, num_tokens: Any, id_bytes: int) -> Any:
    """The words of 8 bytes that a document takes."""
    return _HEADER_WORDS + (4 * num_sentences + id_bytes * num_tokens + 7) // 8


@compiled
def _checksum(words: Any, first: int, last: int) -> Any:
    value = _START
    for i in range(first, last):
        word = words[i] & _LOW if i == first + _HEADER_WORDS - 1 else words[i]
        value = (value ^ word) * _FACTOR
    return (value ^ (value >> _S32)) & _LOW


@compiled
def write_documents(
    words: Any,
    halves: Any,
    ids_out: Any,
    starts: Any,
    order: Any,
    keys: Any,
    hashes: Any,
    num_bytes: Any,
    sentence_offsets: Any,
    lengths: Any,
    token_offsets: Any,
    ids: Any,
) -> None:
    """Writes document `order[i]` from word `starts[i]` on. `words`, `halves`, `ids_out` are views of the same zeroed bytes."""
    ratio = 8 // ids_out.itemsize
    for i in range(len(order)):
        d, first = order[i], starts[i]
        s_first, s_last = sentence_offsets[d], sentence_offsets[d + 1]
        t_first, t_last = token_offsets[s_first], token_offsets[s_last]
        words[first] = keys[d]
        words[first + 1] = hashes[d]
        at = 2 * first + 4
        halves[at] = num_bytes[d]
        halves[at + 1] = s_last - s_first
        halves[at + 2] = t_last - t_first
        at += 4
        for s in range(s_first, s_last):
            halves[at] = lengths[s]
            at += 1
        at = at * ratio // 2
        for t in range(t_first, t_last):
            ids_out[at] = ids[t]
            at += 1
        halves[2 * first + 7] = _checksum(words, first, starts[i + 1])


@compiled
def find_documents(halves: Any, id_bytes: int, starts: Any) -> int:
    """Fills `starts` with the word that each document begins at, and then the end. Returns their number, or NONE."""
    end, at, count = len(halves) // 2, 0, 0
    while at < end:
        if at + _HEADER_WORDS > end or count + 1 >= len(starts):
            return NONE
        starts[count] = at
        at += num_words(np.int64(halves[2 * at + 5]), np.int64(halves[2 * at + 6]), id_bytes)
        count += 1
    starts[count] = end
    return count if at == end else NONE


@compiled
def find_damage(words: Any, halves: Any, starts: Any) -> int:
    """The first document whose checksum is wrong, or NONE if there is none."""
    for d in range(len(starts) - 1):
        if np.uint64(halves[2 * starts[d] + 7]) != _checksum(words, starts[d], starts[d + 1]):
            return d
    return NONE


@compiled
def copy_documents(out: Any, words: Any, starts: Any, order: Any) -> None:
    """Copies the documents `order`, one after the other."""
    at = 0
    for d in order:
        for i in range(starts[d], starts[d + 1]):
            out[at] = words[i]
            at += 1


@compiled
def read_documents(
    halves: Any, ids_in: Any, starts: Any, order: Any, sentence_offsets: Any, lengths: Any, token_offsets: Any, ids: Any
) -> bool:
    """Fills the lengths [S] and the ids [T] of the documents `order`. False if the lengths do not add up to the tokens."""
    ratio = 8 // ids_in.itemsize
    for i in range(len(order)):
        at = 2 * starts[order[i]] + 2 * _HEADER_WORDS
        total = np.int64(0)
        for s in range(sentence_offsets[i], sentence_offsets[i + 1]):
            lengths[s] = halves[at]
            total += np.int64(halves[at])
            at += 1
        if total != token_offsets[i + 1] - token_offsets[i]:
            return False
        at = at * ratio // 2
        for t in range(token_offsets[i], token_offsets[i + 1]):
            ids[t] = ids_in[at]
            at += 1
    return True

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prep.tokens.store import Documents, encode_segment, join_documents, read_buckets
from shards.storage import StorageError

SENTENCES = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def make_documents(shapes: list[list[int]]) -> Documents:
    """A document for each list of sentence lengths; every token id is different."""
    lengths = [length for shape in shapes for length in shape]
    return Documents(
        keys=np.arange(100, 100 + len(shapes), dtype=np.uint64),
        hashes=np.arange(len(shapes), dtype=np.uint64) * 7,
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


@given(shapes=st.lists(SENTENCES, min_size=1, max_size=20), num_buckets=st.integers(1, 6), data=st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_buckets_hold_their_documents_in_order(
    shapes: list[list[int]], num_buckets: int, data: st.DataObject, tmp_path: Path
) -> None:
    documents = make_documents(shapes)
    one = st.integers(0, num_buckets - 1)
    buckets = np.array(data.draw(st.lists(one, min_size=len(shapes), max_size=len(shapes))))
    path = tmp_path / "segment"
    path.write_bytes(encode_segment(documents, buckets, num_buckets))
    first = data.draw(st.integers(0, num_buckets - 1))
    last = data.draw(st.integers(first + 1, num_buckets))
    blocks = list(read_buckets([str(path)], first, last, np.dtype(np.uint16)))
    everything = as_lists(documents)
    expected = [everything[d] for bucket in range(first, last) for d in np.flatnonzero(buckets == bucket)]
    assert [document for block in blocks for document in as_lists(block)] == expected
    if blocks:
        assert as_lists(join_documents(blocks)) == expected


def test_take_chooses_whole_documents_in_any_order() -> None:
    documents = make_documents([[1, 2], [3], [2, 2, 1]])
    everything = as_lists(documents)
    assert as_lists(documents.take(np.array([2, 0]))) == [everything[2], everything[0]]


def test_a_truncated_segment_is_named(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    path.write_bytes(encode_segment(make_documents([[3, 4]]), np.array([0]), 1)[:-20])
    with pytest.raises(StorageError, match="segment: ends at byte"):
        list(read_buckets([str(path)], 0, 1, np.dtype(np.uint16)))


@given(data=st.data())
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_byte_that_is_read_is_found(data: st.DataObject, tmp_path: Path) -> None:
    documents, buckets = make_documents([[1, 2], [3], [2, 2, 1], [4]]), np.array([0, 3, 0, 1])
    segment = encode_segment(documents, buckets, 4)
    place, value = data.draw(st.integers(0, len(segment) - 1)), data.draw(st.integers(1, 255))
    segment[place] ^= value
    path = tmp_path / "segment"
    path.write_bytes(segment)
    with pytest.raises(StorageError, match=r"segment: (its index|a bucket) is damaged"):
        list(read_buckets([str(path)], 0, 4, np.dtype(np.uint16)))


def test_buckets_that_are_not_read_may_be_damaged(tmp_path: Path) -> None:
    segment = encode_segment(make_documents([[1, 2], [3]]), np.array([0, 1]), 2)
    segment[-1] ^= 1
    path = tmp_path / "segment"
    path.write_bytes(segment)
    (block,) = read_buckets([str(path)], 0, 1, np.dtype(np.uint16))
    assert as_lists(block) == as_lists(make_documents([[1, 2], [3]]).take(np.array([0])))


def test_golden_bytes_of_a_segment() -> None:
    """A change here is a change of the store's format: raise STORE_VERSION and the letters that its CRCs begin with."""
    segment = encode_segment(make_documents([[1, 2], [3]]), np.array([2, 0]), 3)
    assert hashlib.sha256(segment).hexdigest() == "79cffbc4e8e724b6690359ca16aa63ea7b7e9e43d4bf0592361f3b756959a65b"

"""The files of the token store: any range of places gives its documents, and no changed byte passes."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from token_stores import IDS, as_lists, make_documents, write_store

from prep.tokens import sources as sources_module
from prep.tokens.sources import load_sources, publish_sources, read_places, sources_url
from prep.tokens.store import LAST_PLACE, Documents, PlaceRange, Places, StoredDocuments, in_range, store_file, words_of
from shards.storage import StorageError

SENTENCES = st.lists(st.integers(1, 6), min_size=1, max_size=5)
PLACES = Places.make(0.25)


def documents_between(folder: Path, sources: object, first: int, last: int) -> list[object]:
    stored = read_places(str(folder), sources, first, last, IDS)  # type: ignore[arg-type]
    order, _ = in_range(stored, PLACES, first, last)
    return list(as_lists(stored.documents(order)))


@given(
    shapes=st.lists(st.lists(SENTENCES, max_size=30), min_size=1, max_size=4),
    edges=st.sets(st.integers(1, LAST_PLACE)),
    whole=st.booleans(),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ranges_of_places_hold_every_document_once(
    shapes: list[list[list[int]]], edges: set[int], whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources_module, "WHOLE_BYTES", 1 << 20 if whole else 0)
    units = [make_documents(unit, first_key=1000 * number) for number, unit in enumerate(shapes)]
    sources = write_store(tmp_path, units, PLACES)
    ranges = zip([0, *sorted(edges)], [*(edge - 1 for edge in sorted(edges)), LAST_PLACE], strict=True)
    found = [document for first, last in ranges for document in documents_between(tmp_path, sources, first, last)]
    assert sorted(found) == sorted(document for unit in units for document in as_lists(unit))
    places = PLACES.of(*(np.array([document[i] for document in found], np.uint64) for i in (0, 1)))
    assert (np.diff(places.astype(object)) >= 0).all(), "in the order of their places"


def test_a_merged_file_is_the_file_of_all_documents() -> None:
    units = [make_documents([[1, 2], [3]] * 40, first_key=1000 * number) for number in range(3)]
    together = StoredDocuments(np.concatenate([words_of(unit) for unit in units]), IDS)
    first, last = 1 << 62, 3 << 62
    part = store_file(together, PLACES, first, last)
    order, places = in_range(together, PLACES, first, last)
    assert part.documents == len(order) and (places >= first).all() and (places <= last).all()
    assert 0 < part.documents < 240 and 2 ** (part.bits - 1) <= part.documents <= 2**part.bits


@given(st.integers(0, LAST_PLACE), st.integers(0, LAST_PLACE), st.integers(1, 16), st.integers(0, LAST_PLACE))
def test_parts_of_a_range_of_places_tile_it(first: int, last: int, bits: int, place: int) -> None:
    span = PlaceRange(min(first, last), max(first, last), bits)
    assert 0 <= span.part_of(place) < 2**bits
    assert span.part_of(span.first) == 0
    assert span.part_of(place) <= span.part_of(min(place + span.step, LAST_PLACE))


@pytest.mark.parametrize("fraction", [0.0, 1e-9, 0.01, 0.5])
def test_held_out_documents_have_the_last_places(fraction: float) -> None:
    places = Places.make(fraction)
    keys, hashes = np.arange(20_000, dtype=np.uint64), np.linspace(0, 2.0**64 - 4096, 20_000).astype(np.uint64)
    values = places.of(keys, hashes)
    is_held_out = hashes < np.uint64(places.held_out_below)
    assert np.array_equal(values >= np.uint64(min(places.train_end, LAST_PLACE)), is_held_out)
    assert abs(np.mean(is_held_out) - fraction) < 0.001
    train = values[~is_held_out].astype(np.float64) / places.train_end
    assert np.abs(np.histogram(train, 10, (0.0, 1.0))[0] / len(train) - 0.1).max() < 0.02, "uniform"


def test_documents_are_taken_in_any_order() -> None:
    documents = make_documents([[1, 2], [3], [2, 2, 1]])
    everything = as_lists(documents)
    stored = StoredDocuments(words_of(documents), IDS)
    assert as_lists(stored.documents(np.array([2, 0]))) == [everything[2], everything[0]]


@pytest.mark.parametrize("kind", [np.uint16, np.uint32])
def test_ids_of_both_sizes_are_kept(kind: type[np.unsignedinteger]) -> None:
    shapes = make_documents([[3], [1, 1], [7]])
    documents = Documents(**{**vars(shapes), "ids": shapes.ids.astype(kind) * kind(3)})
    stored = StoredDocuments(words_of(documents), np.dtype(kind))
    stored.check()
    assert as_lists(stored.documents(np.arange(3))) == as_lists(documents)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    sources = write_store(tmp_path, [make_documents([[3, 4]])], PLACES)
    path = tmp_path / "unit-0.tokens"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StorageError, match=r"unit-0\.tokens: ends at byte"):
        read_places(str(tmp_path), sources, 0, LAST_PLACE, IDS)


@given(data=st.data(), whole=st.booleans())
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_byte_that_is_read_is_found(
    data: st.DataObject, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources_module, "WHOLE_BYTES", 1 << 20 if whole else 0)
    sources = write_store(tmp_path, [make_documents([[1, 2], [3], [2, 2, 1], [4]])], PLACES)
    path = tmp_path / "unit-0.tokens"
    content = bytearray(path.read_bytes())
    place, value = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(1, 255))
    content[place] ^= value
    path.write_bytes(content)
    with pytest.raises(StorageError, match="damaged"):
        documents_between(tmp_path, sources, 0, LAST_PLACE)


def test_what_is_not_read_may_be_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_module, "WHOLE_BYTES", 0)
    documents = make_documents([[1, 2]] * 100)
    sources = write_store(tmp_path, [documents], PLACES)
    path = tmp_path / "unit-0.tokens"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert 20 < len(documents_between(tmp_path, sources, 0, LAST_PLACE // 2)) < 80
    with pytest.raises(StorageError, match="damaged"):
        documents_between(tmp_path, sources, 0, LAST_PLACE)


def test_a_damaged_list_of_files_is_named(tmp_path: Path) -> None:
    sources = write_store(tmp_path, [make_documents([[1, 2]])], PLACES)
    url = sources_url(str(tmp_path), sources)
    publish_sources(str(tmp_path), sources)
    Path(url).write_bytes(Path(url).read_bytes()[:-1] + b"x")
    with pytest.raises(StorageError, match="the list is damaged"):
        load_sources(url)


def test_golden_bytes_of_a_file() -> None:
    """A change here is a change of the store's format: raise STORE_VERSION and the letters that its hashes begin with."""
    file = store_file(StoredDocuments(words_of(make_documents([[1, 2], [3]])), IDS), PLACES)
    assert hashlib.sha256(file.data).hexdigest() == "20a6d15a95bc2cef55d5cdf5e49440e1e2dfe0c7737dfc397e610e756f3a2858"

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prep.partitions import (
    MAX_TOKENS,
    MERGE_BYTES,
    MIN_DOCUMENTS,
    ONE_LEVEL,
    Exchange,
    Volume,
    choose_exchange,
    divide,
    hold_out,
    merges,
    plan_pairs,
)
from prep.records import SKETCH_SIZE, UnitRecord
from prep.tokens.store import LAST_PLACE, Places
from shards.errors import UserError


def record(hashes: list[int]) -> UnitRecord:
    unit = UnitRecord(used_documents=len(hashes))
    for value in hashes:
        unit.see({value: 1})
    return unit


SPREAD = [i * 2**64 // 1000 for i in range(1000)]


def test_a_large_corpus_holds_out_its_fraction() -> None:
    held_out = hold_out(record(SPREAD), 0.0499, 2)
    assert (held_out.documents, held_out.everywhere) == (50, False)


def test_at_least_eight_are_held_out() -> None:
    held_out = hold_out(record(SPREAD[::10]), 0.01, 2)
    assert held_out.everywhere and sum(value < held_out.hash_below for value in SPREAD[::10]) == 8


@pytest.mark.parametrize(("count", "expected"), [(4, 2), (5, 2), (15, 7), (16, 8)])
def test_a_tiny_corpus_holds_out_at_most_half(count: int, expected: int) -> None:
    values = [2**63 + i for i in range(count)]
    held_out = hold_out(record(values), 0.01, 2)
    assert sum(value < held_out.hash_below for value in values) == expected


def test_copies_of_a_document_count_once() -> None:
    values = [2**63 + i for i in range(20)]
    held_out = hold_out(record(values * 50), 0.01, 2)
    assert sum(value < held_out.hash_below for value in values) == 8


@pytest.mark.parametrize(("count", "fraction"), [(0, 0.01), (1, 0.01), (3, 0.01), (1, 0.0)])
def test_too_few_documents_is_said(count: int, fraction: float) -> None:
    with pytest.raises(UserError, match="too few"):
        hold_out(record([2**63 + i for i in range(count)] * 3), fraction, 2)


@given(
    documents=st.integers(16, 10**9),
    tokens=st.integers(1, 10**13),
    num_partitions=st.integers(1, 10_000),
    copies=st.integers(1, 3),
    fraction=st.sampled_from([0.0, 0.001, 0.05, 0.5]),
)
@settings(deadline=None, max_examples=50)
def test_the_tasks_of_each_copy_cover_every_place_once(
    documents: int, tokens: int, num_partitions: int, copies: int, fraction: float
) -> None:
    total = record(SPREAD)
    total.stored_documents, total.tokens = documents, min(tokens, documents * 10**6, 10**12)
    tasks = plan_pairs(total, hold_out(total, fraction, 2), num_partitions, fraction, copies)
    train_end = Places.make(fraction).train_end
    train = [task for task in tasks if task.split == "train"]
    for copy in range(copies):
        ranges = [(task.first, task.last) for task in train if task.copy == copy]
        assert ranges[0][0] == 0 and ranges[-1][1] == train_end - 1
        assert all(left[1] + 1 == right[0] for left, right in pairwise(ranges))
    count = len(train) // copies
    assert count == 1 or documents / count >= MIN_DOCUMENTS
    assert total.tokens / count <= MAX_TOKENS or documents / (count + 1) < MIN_DOCUMENTS
    held_out = [task for task in tasks if task.split == "eval"]
    assert bool(held_out) == bool(fraction) and all(task.copy == 0 for task in held_out)
    if fraction == 0.05:
        assert held_out[0].first == train_end and held_out[-1].last == LAST_PLACE


@given(st.integers(0, LAST_PLACE), st.integers(1, 5000))
def test_ranges_begin_where_a_large_index_can_tell(start: int, count: int) -> None:
    start = start >> 48 << 48
    ranges = list(divide(start, 1 << 64, count))
    assert ranges[0][0] == start and ranges[-1][1] == LAST_PLACE
    assert all(left[1] + 1 == right[0] for left, right in pairwise(ranges))
    sizes = [last - first for first, last in ranges]
    if (1 << 64) - start >= count << 52:
        assert all(first % (1 << 48) == 0 for first, _ in ranges) and max(sizes) <= 1.2 * min(sizes)


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 10**16), st.booleans())
def test_two_levels_are_taken_where_they_take_fewer_requests(
    num_units: int, num_pairs: int, stored_bytes: int, is_local: bool
) -> None:
    volume = Volume(num_units, num_pairs, stored_bytes)
    chosen = choose_exchange("auto", volume, is_local)
    groups, ranges = choose_exchange("two-level", volume, is_local)
    assert chosen in (ONE_LEVEL, (groups, ranges)) and choose_exchange("one-level", Volume(1, 1, 1), is_local) == ONE_LEVEL
    assert 1 <= groups <= num_units and ranges >= 2
    if groups < num_units:
        assert stored_bytes / (groups * ranges) <= MERGE_BYTES
    if chosen != ONE_LEVEL:
        assert num_units * ranges + num_pairs * groups < num_units * num_pairs


def test_merges_cover_every_unit_and_place() -> None:
    tasks = list(merges(Exchange(3, 4), 10))
    assert len(tasks) == 12 and list(merges(ONE_LEVEL, 10)) == []
    for first, last in {(first, last) for _, _, first, last in tasks}:
        units = [unit for a, b, *places in tasks if tuple(places) == (first, last) for unit in range(a, b + 1)]
        assert units == list(range(10))


@given(st.lists(st.integers(0, 5000), max_size=300), st.integers(0, 300))
def test_sketches_of_parts_sum_to_the_sketch_of_the_whole(hashes: list[int], cut: int) -> None:
    whole = record(hashes)
    total = record(hashes[:cut])
    total.add(record(hashes[cut:]))
    assert total.sketch == whole.sketch and len(whole.sketch) <= SKETCH_SIZE

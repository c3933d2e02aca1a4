"""The plan: every byte in one unit, whatever the corpus, and a corpus that grows keeps its units."""

import math
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prep import plan
from prep.corpus.documents import InputFile, Rule
from prep.corpus.files import Corpus, list_inputs
from prep.corpus.inputs import Inputs, InputsBuilder, Kind, Root
from prep.plan import MAX_PARTITION_BYTES, MAX_SPAN_BYTES, MAX_UNIT_BYTES, Unit, make_units, span_bytes

LINES = Rule("line", "text")


def input_files(sizes: dict[str, int], compression: str = "") -> Inputs:
    builder = InputsBuilder()
    for name, size in sizes.items():
        builder.add(Root("/nowhere/", ""), name, size, "", Kind("text", compression), 0, f"/nowhere/{name}")
    return builder.finish()


def numbered(sizes: list[int]) -> dict[str, int]:
    return {f"{number:08d}.txt": size for number, size in enumerate(sizes)}


def content(unit: Unit) -> tuple[tuple[str, int, int | None], ...]:
    return tuple((span.file.name, span.start, span.stop) for span in unit.spans)


@given(st.lists(st.integers(0, 50_000), min_size=1, max_size=30), st.integers(100, 20_000), st.booleans())
@settings(deadline=None, max_examples=30)
def test_spans_tile_every_file(sizes: list[int], unit_bytes: int, compressed: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "CUT_FROM", unit_bytes)
        patch.setattr(plan, "MAX_SPAN_BYTES", unit_bytes)
        patch.setattr(plan, "MAX_UNIT_BYTES", unit_bytes)
        files = input_files(numbered(sizes), "gz" if compressed else "")
        units = list(make_units(files, LINES))
        spans = [span for unit in units for span in unit.spans]
        assert [unit.number for unit in units] == list(range(len(units)))
        assert sum(unit.bytes for unit in units) == sum(sizes)
        for file in files:
            edges = sorted((span.start, math.inf if span.stop is None else span.stop) for span in spans if span.file == file)
            assert edges[0][0] == 0 and edges[-1][1] == math.inf
            assert all(left[1] == right[0] for left, right in pairwise(edges))
        if not compressed:
            assert all(unit.bytes <= unit_bytes + 1 for unit in units)
        assert all(len(unit.spans) == 1 or unit.bytes <= unit_bytes for unit in units)


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=6), st.integers(0, 20 << 20), min_size=1, max_size=60),
    st.text("abc", min_size=1, max_size=6),
    st.integers(0, 20 << 20),
)
@settings(deadline=None, max_examples=50)
def test_a_file_changes_no_units_but_those_that_its_parts_join(sizes: dict[str, int], name: str, size: int) -> None:
    others = {other: size for other, size in sizes.items() if other != name}
    assume(others)
    without = {content(unit) for unit in make_units(input_files(others), LINES)}
    units = {content(unit) for unit in make_units(input_files(others | {name: size}), LINES)}
    parts = {span for unit in units for span in unit if span[0] == name}
    assert len(without - units) <= len(parts), "each part splits at most one unit"
    changed = {span for unit in without - units for span in unit}
    assert {span for unit in units - without for span in unit} == changed | parts


def test_one_file_added_to_a_thousand_changes_one_unit_in_fifty() -> None:
    sizes = numbered([10_000] * 1000)
    before = {content(unit) for unit in make_units(input_files(sizes), LINES)}
    for number in range(20):
        after = {content(unit): unit.bytes for unit in make_units(input_files(sizes | {f"new-{number}.txt": 10_000}), LINES)}
        changed = sum(num_bytes for unit, num_bytes in after.items() if unit not in before)
        assert 0 < changed < 0.02 * sum(sizes.values())


def test_units_and_partitions_of_any_corpus_are_of_a_bounded_size() -> None:
    for total in (10**4, 10**7, 10**9, 10**11, 10**13):
        text = plan._partition_bytes(total)
        assert min(total, 2 << 20) <= text or text == 2 << 20
        assert text <= MAX_PARTITION_BYTES
        assert span_bytes(total) <= MAX_SPAN_BYTES
    parts = {size: math.ceil(size / span_bytes(size)) for size in (5 * 10**6, 10**8, 10**9, 10**10)}
    assert parts == {5 * 10**6: 2, 10**8: 10, 10**9: 16, 10**10: 75}


def test_many_small_files_make_few_units() -> None:
    units = make_units(input_files(numbered([2_000] * 100_000)), Rule("file", "text"))
    assert len(units) < 4 * math.isqrt(100_000) * 2 and sum(len(unit.spans) for unit in units) == 100_000
    assert units.bytes.max() <= MAX_UNIT_BYTES


def test_a_unit_of_small_files_has_a_bounded_size() -> None:
    units = make_units(input_files(numbered([3 << 20] * 2_000)), LINES)
    assert units.bytes.max() <= MAX_UNIT_BYTES and len(units) > 6000 // 64


@pytest.mark.long
def test_a_million_files_are_planned_in_little_memory(tmp_path: Path) -> None:
    """In columns, a file takes little more than its name."""
    for folder in range(100):
        (tmp_path / f"{folder:03d}").mkdir()
        for number in range(1000):
            os.close(os.open(tmp_path / f"{folder:03d}" / f"document-{number:04d}.txt", os.O_CREAT))
    inputs = list_inputs(Corpus([str(tmp_path)]))
    assert len(inputs) == 100_000 and inputs._table.nbytes < 100 * len(inputs)
    assert sum(len(unit.spans) for unit in make_units(inputs, LINES)) == 100_000


def test_inputs_are_a_sequence_of_files() -> None:
    inputs = input_files({"b": 2, "a": 1, "\udcff": 3})
    assert [file.name for file in inputs] == ["a", "b", "\udcff"] and len(inputs) == 3
    assert inputs[1] == InputFile("b", "/nowhere/b", 2, "", "text", "") and inputs[-1].bytes == 3
    assert [file.bytes for file in inputs[1:]] == [2, 3] and np.array_equal(inputs.bytes, [1, 2, 3])
    with pytest.raises(IndexError):
        inputs[3]

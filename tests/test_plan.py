"""The plan: every byte in one unit, the same wherever the corpus lies, at any size."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from prep import plan
from prep.corpus.documents import InputFile, Rule
from prep.plan import MAX_PARTITION_BYTES, MAX_UNIT_BYTES, TARGET_UNITS


def input_files(sizes: list[int], compressed: bool = False) -> list[InputFile]:
    compression = "gz" if compressed else ""
    return [InputFile(i, f"{i:08d}.txt", f"/nowhere/{i}", size, "", "text", compression) for i, size in enumerate(sizes)]


@given(st.lists(st.integers(0, 50_000), max_size=60), st.integers(1, 20_000), st.booleans())
@settings(deadline=None)
def test_spans_tile_every_file_and_units_keep_their_order(sizes: list[int], unit_bytes: int, compressed: bool) -> None:
    files = input_files(sizes, compressed)
    units = list(plan._units(plan._spans(files, Rule("line", "text"), unit_bytes), unit_bytes))
    spans = [span for unit in units for span in unit.spans]
    assert [unit.number for unit in units] == list(range(len(units)))
    assert sum(unit.bytes for unit in units) == sum(sizes)
    assert [span.file.ordinal for span in spans] == sorted(span.file.ordinal for span in spans)
    for file in files:
        edges = [(span.start, span.stop) for span in spans if span.file is file]
        assert edges[0][0] == 0 and edges[-1][1] is None
        assert all(left[1] == right[0] for left, right in pairwise(edges))
    if not compressed:
        assert all(unit.bytes <= unit_bytes + 1 for unit in units)


def test_units_and_partitions_of_any_corpus_are_of_a_bounded_size() -> None:
    for total in (10**4, 10**7, 10**9, 10**11, 10**13):
        text = plan._partition_bytes(total)
        assert min(total, 2 << 20) <= text or text == 2 << 20
        assert text <= MAX_PARTITION_BYTES
        assert -(-total // text) <= 10_000
        unit = min(max(total // TARGET_UNITS, plan.MIN_UNIT_BYTES), MAX_UNIT_BYTES)
        assert unit <= MAX_UNIT_BYTES and -(-total // unit) <= 10_000


def test_a_million_small_files_make_few_units() -> None:
    files = input_files([2_000] * 100_000)
    units = list(plan._units(plan._spans(files, Rule("file", "text"), 1 << 20), 1 << 20))
    assert len(units) < 200 and sum(len(unit.spans) for unit in units) == 100_000

"""Inputs and settings -> work units, and the number of partitions. Nothing here depends on workers, memory or time."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt

from prep.corpus.documents import Rule, Span
from prep.corpus.files import Corpus, list_inputs
from prep.corpus.formats import FORMATS
from prep.corpus.inputs import Inputs
from prep.corpus.names import FormatName
from prep.corpus.read import check_input
from prep.settings import Settings
from shards.errors import UserError
from shards.schema import lengths_to_offsets

MIB = 1 << 20
# A smaller file is not cut. Parquet must be opened for that, so there the limit is higher.
CUT_FROM, CUT_PARQUET_FROM = 4 * MIB, 32 * MIB
MAX_SPAN_BYTES = 128 * MIB
MAX_UNIT_BYTES = 64 * MIB  # a unit with more has one span
MIN_PARTITION_BYTES, MAX_PARTITION_BYTES, TARGET_PARTITIONS = 64 * MIB, 256 * MIB, 8192
SMALL_PARTITION_BYTES, SMALL_PARTITIONS = 2 * MIB, 16
_HASH_BITS = 64
# Spreads the parts of a file. (`combine` would load numba, which takes a second.)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
# Estimated bytes of text per byte of a compressed input.
_EXPANSION = {"": 1, "gz": 3, "zst": 3, "bz2": 4, "xz": 4}
_OPENED_AT_ONCE = 16


@dataclass(frozen=True)
class Unit:
    """The part of the corpus that one task tokenizes: spans in order, and their bytes as listed."""

    number: int
    spans: tuple[Span, ...]
    bytes: int


class Units(Sequence[Unit]):
    """The units of a corpus, in columns: a unit is made when it is asked for."""

    def __init__(
        self, inputs: Inputs, spans: "SpanColumns", order: npt.NDArray[np.int64], edges: npt.NDArray[np.int64]
    ) -> None:
        """`edges` [units + 1]: unit u has the spans `order[edges[u] : edges[u + 1]]`."""
        self._inputs, self._spans, self._order, self._edges = inputs, spans, order, edges
        self.bytes: npt.NDArray[np.int64] = np.add.reduceat(spans.bytes[order], edges[:-1])

    def num_requests(self, block_bytes: int) -> int:
        """About how many requests read all spans from a server, which sends blocks: two look at the file, and a part of a file
        takes one for its first bytes.
        """
        starts = self._spans.start
        last = np.maximum(starts + self._spans.bytes - 1, starts)
        return int((3 + (starts > 0) + last // block_bytes - starts // block_bytes).sum())

    def __len__(self) -> int:
        return len(self._edges) - 1

    @overload
    def __getitem__(self, index: int) -> Unit: ...
    @overload
    def __getitem__(self, index: slice) -> list[Unit]: ...
    def __getitem__(self, index: int | slice) -> Unit | list[Unit]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        rows = self._order[self._edges[index] : self._edges[index + 1]].tolist()
        return Unit(index, tuple(self._spans.span(row, self._inputs) for row in rows), int(self.bytes[index]))


@dataclass(frozen=True)
class Plan:
    """What a build consists of. The number of partitions is raised where the tokens turn out to be too many for it."""

    inputs: Inputs
    units: Units
    num_partitions: int

    @property
    def bytes(self) -> int:
        """Bytes of all inputs as listed."""
        return int(self.inputs.bytes.sum())

    @property
    def text_bytes(self) -> int:
        """Bytes of text, estimated for compressed inputs."""
        return _text_bytes(self.inputs)


def make_plan(settings: Settings) -> Plan:
    """Lists the inputs and cuts them up. Raises UserError for an empty corpus or one without the text field."""
    corpus = Corpus(
        settings.corpus,
        written=(settings.out, settings.scratch),
        format=settings.input,
        pass_over=settings.on_error == "skip",
        weighted=bool(settings.corpus_weight),
    )
    inputs = list_inputs(corpus)
    if not inputs.bytes.any():
        raise UserError(f"--corpus {' '.join(settings.corpus)}: {len(inputs)} files, all empty")
    rule = settings.rule
    _check(inputs, rule)
    if settings.splitting.rule == "line" and rule.document == "line" and any(kind.format == "text" for kind in inputs.kinds()):
        raise UserError(
            "--sentences line with --document line makes every document one sentence; set where documents end: "
            "--document blank-line or file"
        )
    text = _text_bytes(inputs)
    return Plan(inputs, make_units(inputs, rule), math.ceil(text / _partition_bytes(text)))


def _text_bytes(inputs: Inputs) -> int:
    kinds = inputs.kinds().items()
    return sum(int(inputs.bytes[files].sum()) * _EXPANSION[kind.compression] for kind, files in kinds if kind.format != "other")


def _partition_bytes(text_bytes: int) -> int:
    if text_bytes < SMALL_PARTITIONS * MIN_PARTITION_BYTES:
        return max(text_bytes // SMALL_PARTITIONS, SMALL_PARTITION_BYTES)
    return min(max(text_bytes // TARGET_PARTITIONS, MIN_PARTITION_BYTES), MAX_PARTITION_BYTES)


class SpanColumns(NamedTuple):
    """Parts of files: see Span. `stop` is -1 at the end of a file."""

    file: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    stop: npt.NDArray[np.int64]
    bytes: npt.NDArray[np.int64]  # as listed

    def span(self, row: int, inputs: Inputs) -> Span:
        """One of them."""
        stop = int(self.stop[row])
        return Span(inputs[int(self.file[row])], int(self.start[row]), None if stop < 0 else stop)


def make_units(inputs: Inputs, rule: Rule) -> Units:
    """Cuts large files up, and puts small ones together.

    Where a file is cut depends on this file alone, and it joins those whose names have hashes with the same first bits. So
    a file that is added, changed or removed changes only the units that it is in, and at most splits or joins these.
    """
    spans = _cut(inputs, rule)
    places = inputs.hashes[spans.file] + spans.start.astype(np.uint64) * _SPREAD
    order = np.argsort(places, kind="stable")
    edges = list(_group(places[order], lengths_to_offsets(spans.bytes[order])))
    return Units(inputs, spans, order, np.array([0, *edges], np.int64))


def _cut(inputs: Inputs, rule: Rule) -> SpanColumns:
    """Every file as one span, or as several if it is large. A few files are opened at once."""
    is_large = np.zeros(len(inputs), np.bool_)
    for kind, files in inputs.kinds().items():
        limit = CUT_PARQUET_FROM if kind.format == "parquet" else CUT_FROM
        is_large[files] = inputs.bytes[files] > limit
    whole = np.flatnonzero(~is_large)
    uncut = SpanColumns(whole, np.zeros_like(whole), np.full_like(whole, -1), inputs.bytes[whole])

    def cut(index: int) -> SpanColumns:
        file = inputs[index]
        spans = FORMATS[file.format].split(file, rule, span_bytes(file.bytes))
        edges = [(index, span.start, -1 if span.stop is None else span.stop, size) for span, size in spans]
        return SpanColumns(*np.array(edges, np.int64).T)

    if not is_large.any():
        return uncut
    with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
        columns = [uncut, *pool.map(cut, np.flatnonzero(is_large).tolist())]
    return SpanColumns(*(np.concatenate(parts, dtype=np.int64) for parts in zip(*columns, strict=True)))


def span_bytes(file_bytes: int) -> int:
    """The size that a file is cut by. 16 parts of 1 GB and 10 of 100 MB: an even number, so that two workers get as much."""
    parts = min(2 * (math.isqrt(math.isqrt(4 * file_bytes // MIB)) + 1), math.ceil(file_bytes / CUT_FROM))
    return min(math.ceil(file_bytes / max(1, parts)), MAX_SPAN_BYTES)


def _group(places: npt.NDArray[np.uint64], offsets: npt.NDArray[np.int64]) -> Iterator[int]:
    """Where each group of spans ends. `places` [spans] are sorted; span s has the bytes between `offsets[s]` and the next.

    The groups are the leaves of a binary tree over the bits of the places. A node is divided while it has more than
    MAX_UNIT_BYTES, or more spans than its depth allows: n small files make about 4 * sqrt(n) groups.
    """
    waiting = [(0, len(places), 0, 0)]
    while waiting:
        first, last, depth, start = waiting.pop()
        is_small = offsets[last] - offsets[first] <= MAX_UNIT_BYTES and last - first <= max(1, (1 << depth) // 16)
        if last - first <= 1 or is_small or depth == _HASH_BITS:
            if first < last:
                yield last
            continue
        half = start + (1 << (_HASH_BITS - 1 - depth))
        middle = first + int(np.searchsorted(places[first:last], np.uint64(half)))
        waiting += [(middle, last, depth + 1, half), (first, middle, depth + 1, start)]


def _check(inputs: Inputs, rule: Rule) -> None:
    """Looks at the first file of each format. Raises UserError for what no build could read."""
    first: dict[FormatName, int] = {}
    for kind, files in inputs.kinds().items():
        with_content = files[inputs.bytes[files] > 0]
        if len(with_content):
            first[kind.format] = min(int(with_content[0]), first.get(kind.format, len(inputs)))
    for name in FORMATS:
        if name in first:
            check_input(inputs[first[name]], rule)

"""Inputs and settings -> numbered work units and partitions. Nothing here knows of workers, memory or time."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from prep.corpus.documents import Fault, Rule, Span, rule_of
from prep.corpus.files import InputFile, list_inputs
from prep.corpus.parquet import check_column, open_parquet
from prep.corpus.read import read_documents
from prep.settings import Settings
from shards.errors import UserError

MIN_UNIT_BYTES, MAX_UNIT_BYTES, TARGET_UNITS = 1 << 20, 1 << 30, 512
MIN_PARTITION_BYTES, MAX_PARTITION_BYTES, TARGET_PARTITIONS = 64 << 20, 1 << 30, 8192
SMALL_PARTITION_BYTES, SMALL_PARTITIONS = 2 << 20, 16
_LOOKED_AT = 100
PLAN_VERSION = 1
"""Raised when the same inputs are cut into other units or partitions: token stores of another plan are not used."""
_EXPANSION = {"": 1, "gz": 3, "zst": 3, "bz2": 4, "xz": 4}
"""Bytes of text that a byte of a compressed input is taken for, in estimates."""


@dataclass(frozen=True)
class Unit:
    """A share of the corpus that one task tokenizes: spans in order, and their bytes as listed."""

    number: int
    spans: tuple[Span, ...]
    bytes: int


@dataclass(frozen=True)
class Plan:
    """What a build consists of. Buckets 0 to num_partitions - 1 are of the train split, the rest of the held-out one."""

    inputs: tuple[InputFile, ...]
    units: tuple[Unit, ...]
    num_partitions: int
    num_eval_partitions: int

    @property
    def bytes(self) -> int:
        """Bytes of all inputs as listed."""
        return sum(file.bytes for file in self.inputs)

    @property
    def text_bytes(self) -> int:
        """Bytes of text, estimated for compressed inputs."""
        return sum(file.bytes * _EXPANSION[file.compression] for file in self.inputs)


def make_plan(settings: Settings) -> Plan:
    """Lists the inputs and cuts them up. Raises UserError for an empty corpus or one without the text field."""
    inputs = list_inputs(settings)
    if not any(file.bytes for file in inputs):
        raise UserError(f"--corpus {' '.join(settings.corpus)}: {len(inputs)} files, all empty")
    rule = rule_of(settings)
    _check_text_field(inputs, rule)
    if settings.splitting.rule == "line" and rule.document == "line" and any(file.format == "text" for file in inputs):
        raise UserError(
            "--sentences line with --document line makes every document one sentence; say where documents end: "
            "--document blank-line or file"
        )
    total = sum(file.bytes for file in inputs)
    text = sum(file.bytes * _EXPANSION[file.compression] for file in inputs)
    unit_bytes = min(max(total // TARGET_UNITS, MIN_UNIT_BYTES), MAX_UNIT_BYTES)
    partitions = math.ceil(text / _partition_bytes(text))
    return Plan(
        inputs=tuple(inputs),
        units=tuple(_units(_spans(inputs, rule, unit_bytes), unit_bytes)),
        num_partitions=partitions,
        num_eval_partitions=math.ceil(partitions * settings.eval_fraction),
    )


def _partition_bytes(text_bytes: int) -> int:
    if text_bytes < SMALL_PARTITIONS * MIN_PARTITION_BYTES:
        return max(text_bytes // SMALL_PARTITIONS, SMALL_PARTITION_BYTES)
    return min(max(text_bytes // TARGET_PARTITIONS, MIN_PARTITION_BYTES), MAX_PARTITION_BYTES)


def _spans(inputs: Sequence[InputFile], rule: Rule, unit_bytes: int) -> Iterator[tuple[Span, int]]:
    """Every file in spans of at most about `unit_bytes`, with the bytes of each."""
    for file in inputs:
        whole = not file.splittable or file.bytes <= unit_bytes or (file.format == "text" and rule.document == "file")
        if whole:
            yield Span(file), file.bytes
        elif file.format == "parquet":
            yield from _parquet_spans(file, unit_bytes)
        else:
            count = math.ceil(file.bytes / unit_bytes)
            edges = [file.bytes * i // count for i in range(count + 1)]
            for i in range(count):
                yield Span(file, edges[i], edges[i + 1] if i + 1 < count else None), edges[i + 1] - edges[i]


def _parquet_spans(file: InputFile, unit_bytes: int) -> Iterator[tuple[Span, int]]:
    try:
        with open_parquet(file) as parquet:
            sizes = [parquet.metadata.row_group(group).total_byte_size for group in range(parquet.num_row_groups)]
    except (pa.ArrowException, OSError):
        sizes = []  # the task that reads it says what is wrong
    scale = file.bytes / max(1, sum(sizes))
    start, gathered = 0, 0.0
    for group, size in enumerate(sizes):
        gathered += size * scale
        if gathered >= unit_bytes or group == len(sizes) - 1:
            yield Span(file, start, group + 1), int(gathered)
            start, gathered = group + 1, 0.0
    if not sizes:
        yield Span(file), file.bytes


def _units(spans: Iterator[tuple[Span, int]], unit_bytes: int) -> Iterator[Unit]:
    """Spans put together, in order, until a unit would pass `unit_bytes`."""
    number, gathered, size = 0, list[Span](), 0
    for span, span_bytes in spans:
        if gathered and size + span_bytes > unit_bytes:
            yield Unit(number, tuple(gathered), size)
            number, gathered, size = number + 1, [], 0
        gathered.append(span)
        size += span_bytes
    yield Unit(number, tuple(gathered), size)


def _check_text_field(inputs: Sequence[InputFile], rule: Rule) -> None:
    """Looks at the first records of the first JSON lines file and at the columns of the first Parquet file."""
    for kind in ("jsonl", "parquet"):
        file = next((file for file in inputs if file.format == kind and file.bytes), None)
        if file is None:
            continue
        if kind == "parquet":
            try:
                with open_parquet(file) as parquet:
                    check_column(file, parquet.schema_arrow, rule.text_field)
            except (pa.ArrowException, OSError):
                continue  # the task that reads it says what is wrong
            continue
        first = list(islice(read_documents(Span(file), rule), _LOOKED_AT))
        lacking = [item for item in first if isinstance(item, Fault) and item.reason == "no_text_field"]
        if lacking and len(lacking) == len(first):
            raise UserError(f"{file.url}: at byte {lacking[0].position}: {lacking[0].detail}; choose with --text-field")

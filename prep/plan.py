"""Inputs and settings -> numbered work units and partitions. Nothing here depends on workers, memory or time."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from prep.corpus.documents import InputFile, Rule, Span
from prep.corpus.files import Corpus, list_inputs
from prep.corpus.formats import FORMATS
from prep.corpus.read import check_input
from prep.settings import Settings
from shards.errors import UserError

MIN_UNIT_BYTES, MAX_UNIT_BYTES, TARGET_UNITS = 1 << 20, 1 << 30, 512
MIN_PARTITION_BYTES, MAX_PARTITION_BYTES, TARGET_PARTITIONS = 64 << 20, 1 << 30, 8192
SMALL_PARTITION_BYTES, SMALL_PARTITIONS = 2 << 20, 16
# Raise it when the same inputs are cut into other units or partitions: token stores of another plan are not used.
PLAN_VERSION = 1
# Estimated bytes of text per byte of a compressed input.
_EXPANSION = {"": 1, "gz": 3, "zst": 3, "bz2": 4, "xz": 4}
_OPENED_AT_ONCE = 16


@dataclass(frozen=True)
class Unit:
    """The part of the corpus that one task tokenizes: spans in order, and their bytes as listed."""

    number: int
    spans: tuple[Span, ...]
    bytes: int


@dataclass(frozen=True)
class Plan:
    """What a build consists of. Buckets 0 to num_partitions - 1 belong to the train split, the rest to the eval split."""

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
    if not any(file.bytes for file in inputs):
        raise UserError(f"--corpus {' '.join(settings.corpus)}: {len(inputs)} files, all empty")
    rule = settings.rule
    _check(inputs, rule)
    if settings.splitting.rule == "line" and rule.document == "line" and any(file.format == "text" for file in inputs):
        raise UserError(
            "--sentences line with --document line makes every document one sentence; set where documents end: "
            "--document blank-line or file"
        )
    total = sum(file.bytes for file in inputs)
    text = _text_bytes(inputs)
    unit_bytes = min(max(total // TARGET_UNITS, MIN_UNIT_BYTES), MAX_UNIT_BYTES)
    partitions = math.ceil(text / _partition_bytes(text))
    return Plan(
        inputs=tuple(inputs),
        units=tuple(_units(_spans(inputs, rule, unit_bytes), unit_bytes)),
        num_partitions=partitions,
        num_eval_partitions=math.ceil(partitions * settings.eval_fraction),
    )


def _text_bytes(inputs: Sequence[InputFile]) -> int:
    return sum(file.bytes * _EXPANSION[file.compression] for file in inputs if file.format != "other")


def _partition_bytes(text_bytes: int) -> int:
    if text_bytes < SMALL_PARTITIONS * MIN_PARTITION_BYTES:
        return max(text_bytes // SMALL_PARTITIONS, SMALL_PARTITION_BYTES)
    return min(max(text_bytes // TARGET_PARTITIONS, MIN_PARTITION_BYTES), MAX_PARTITION_BYTES)


def _spans(inputs: Sequence[InputFile], rule: Rule, unit_bytes: int) -> Iterator[tuple[Span, int]]:
    """Every file in spans of at most about `unit_bytes`, with the listed bytes of each. A few files are opened at once."""
    large = [file for file in inputs if file.bytes > unit_bytes]
    with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
        splits = pool.map(lambda file: FORMATS[file.format].split(file, rule, unit_bytes), large)
        for file in inputs:
            if file.bytes > unit_bytes:
                yield from next(splits)
            else:
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


def _check(inputs: Sequence[InputFile], rule: Rule) -> None:
    """Looks at the first file of each format. Raises UserError for what no build could read."""
    for name in FORMATS:
        file = next((file for file in inputs if file.format == name and file.bytes), None)
        if file is not None:
            check_input(file, rule)

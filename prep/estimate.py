"""Plan and settings -> what a build will cost: tasks, requests and their price, bytes, memory, time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from prep.partitions import MAX_TOKENS, Exchange, Volume, choose_exchange
from prep.plan import Plan
from prep.settings import ExchangeName, Settings
from prep.tokens.sources import WHOLE_BYTES
from prep.tokens.tokenize import RUN_BYTES
from shards import storage
from shards.command.numbers import short, size
from shards.schema import token_dtype

# Orders of magnitude, measured on web text and books.
TOKENS_PER_TEXT_BYTE = 0.23
SHARD_BYTES_PER_TOKEN = 1.8
STORE_BYTES_PER_TEXT_BYTE = 0.09  # besides the ids
# Bytes of text per second and core. The pair stage takes that long for each copy.
_TOKENIZE_BYTES_PER_S, _REFERENCE_BYTES_PER_S, _PAIR_BYTES_PER_S = 30e6, 3e6, 35e6
# Requests to S3, as s3fs makes them: to look for a record that is not there, and to write a file in parts of this size.
FIND_RECORD, PART_BYTES = 1, 50 << 20
BLOCK_BYTES = 8 << 20  # that an input is read in
# Prices of Amazon S3 in 2025, standard storage.
DOLLARS_PER_1000_READS, DOLLARS_PER_1000_WRITES = 0.0004, 0.005
_NAMES: tuple[ExchangeName, ExchangeName] = ("one-level", "two-level")
_OTHER: tuple[ExchangeName, ExchangeName] = ("two-level", "one-level")
# Memory of a worker process with its imports and the cache of the fast tokenizer; and what a task holds at once.
_PROCESS_BYTES = 250 << 20
_TOKENIZE_BYTES_PER_TEXT_BYTE, _PAIR_BYTES_PER_TOKEN, _MERGE_BYTES_PER_BYTE = 3.0, 10.0, 3.2


@dataclass(frozen=True)
class Estimate:
    """What a build will cost, about. Requests are those to a server of objects such as S3; a disk takes as many reads."""

    files: int
    bytes: int
    text_bytes: int
    tokens: int  # of one copy
    units: int
    merge_tasks: int
    pair_tasks: int
    exchange: str
    requests_by_tokenize: int
    requests_by_merge: int
    requests_by_pair: int
    writes: int  # of these requests
    request_dollars: float
    requests_of_other_exchange: int  # by merge and pair
    range_bytes: int  # that a pair task reads of a file at once
    stored_bytes: int
    read_bytes: int  # from scratch
    output_bytes: int
    tokenize_memory_bytes: int
    merge_memory_bytes: int
    pair_memory_bytes: int
    core_seconds: int


class _Traffic(NamedTuple):
    """The tasks and requests of an exchange."""

    merge_tasks: int
    merge_requests: int
    pair_requests: int
    merge_writes: int
    sources: int  # files that a pair task reads from
    merged_bytes: float  # of a file that a merge task writes


def expected_volume(settings: Settings, plan: Plan, vocab_size: int) -> Volume:
    """What the exchange will move, as far as sizes of files tell. The plan and the build choose the exchange by it."""
    num_train = _num_train(plan)
    num_pairs = num_train * settings.copies + math.ceil(num_train * settings.eval_fraction)
    ids_per_byte = TOKENS_PER_TEXT_BYTE * token_dtype(vocab_size).itemsize
    return Volume(len(plan.units), num_pairs, int(plan.text_bytes * (ids_per_byte + STORE_BYTES_PER_TEXT_BYTE)))


def _num_train(plan: Plan) -> int:
    """The number of partitions of the train split."""
    return max(1, plan.num_partitions, math.ceil(plan.text_bytes * TOKENS_PER_TEXT_BYTE / MAX_TOKENS))


def estimate(settings: Settings, plan: Plan, vocab_size: int, fast: bool) -> Estimate:
    """What a build will cost: see Estimate. `fast`: with a fast tokenizer."""
    text_bytes = plan.text_bytes
    tokens = text_bytes * TOKENS_PER_TEXT_BYTE
    num_train = _num_train(plan)
    volume = expected_volume(settings, plan, vocab_size)
    num_units, num_pairs, stored = volume
    exchange = choose_exchange(settings.exchange, volume, storage.is_local(settings.scratch))
    other = choose_exchange(_OTHER[exchange.num_groups > 0], volume, False)
    num_small = int(np.count_nonzero(plan.units.bytes * (stored / plan.bytes) <= WHOLE_BYTES))
    chosen, rejected = (_traffic(each, volume, 2 * num_units - num_small) for each in (exchange, other))
    shard_bytes = tokens / num_train * SHARD_BYTES_PER_TOKEN
    shards = math.ceil(shard_bytes / settings.shard_bytes)
    pair_writes = num_pairs * (shards * put_requests(min(shard_bytes, settings.shard_bytes)) + 1)
    tokenize_writes = num_units * (1 + put_requests(stored / num_units))
    by_tokenize = num_units * FIND_RECORD + plan.units.num_requests(BLOCK_BYTES) + tokenize_writes
    by_pair = chosen.pair_requests + pair_writes
    writes = tokenize_writes + chosen.merge_writes + pair_writes
    reads = by_tokenize + chosen.merge_requests + by_pair - writes
    seconds = text_bytes / (_TOKENIZE_BYTES_PER_S if fast else _REFERENCE_BYTES_PER_S)
    return Estimate(
        files=len(plan.inputs),
        bytes=plan.bytes,
        text_bytes=text_bytes,
        tokens=int(tokens),
        units=num_units,
        merge_tasks=chosen.merge_tasks,
        pair_tasks=num_pairs,
        exchange=_NAMES[exchange.num_groups > 0],
        requests_by_tokenize=by_tokenize,
        requests_by_merge=chosen.merge_requests,
        requests_by_pair=by_pair,
        writes=writes,
        request_dollars=writes / 1000 * DOLLARS_PER_1000_WRITES + reads / 1000 * DOLLARS_PER_1000_READS,
        requests_of_other_exchange=rejected.merge_requests + rejected.pair_requests + pair_writes,
        range_bytes=int(stored / num_train / chosen.sources),
        stored_bytes=stored * (2 if chosen.merge_tasks else 1),
        read_bytes=stored * (settings.copies + (1 if chosen.merge_tasks else 0)),
        output_bytes=int(tokens * settings.copies * SHARD_BYTES_PER_TOKEN),
        tokenize_memory_bytes=_PROCESS_BYTES + int(min(RUN_BYTES, text_bytes / num_units) * _TOKENIZE_BYTES_PER_TEXT_BYTE),
        merge_memory_bytes=_PROCESS_BYTES + int(_MERGE_BYTES_PER_BYTE * chosen.merged_bytes) if chosen.merge_tasks else 0,
        pair_memory_bytes=_PROCESS_BYTES + int(tokens / num_train * _PAIR_BYTES_PER_TOKEN),
        core_seconds=math.ceil(seconds + text_bytes * settings.copies / _PAIR_BYTES_PER_S),
    )


def _traffic(exchange: Exchange, volume: Volume, unit_requests: int) -> _Traffic:
    """The requests of merge and pair tasks, but for the shards. A range of all units takes `unit_requests`: two per unit, and
    one if its file is small.
    """
    num_units, num_pairs, stored = volume
    tasks = exchange.num_groups * exchange.num_ranges
    if not tasks:
        return _Traffic(0, 0, num_pairs * (FIND_RECORD + unit_requests), 0, num_units, 0.0)
    merged_bytes = stored / tasks
    writes = tasks * (1 + put_requests(merged_bytes))
    merging = tasks * FIND_RECORD + unit_requests * exchange.num_ranges + writes
    # A partition at the border of two ranges of places reads from both.
    sources = exchange.num_groups * (num_pairs + exchange.num_ranges - 1)
    merged_requests = 1 if merged_bytes <= WHOLE_BYTES else 2
    return _Traffic(
        tasks, merging, num_pairs * FIND_RECORD + merged_requests * sources, writes, exchange.num_groups, merged_bytes
    )


def put_requests(num_bytes: float) -> int:
    """The requests that write a file: one, or three and more for a large one, which goes in parts."""
    return 1 if num_bytes < 2 * PART_BYTES else 2 + math.ceil(num_bytes / PART_BYTES)


def describe_estimate(cost: Estimate) -> Iterator[str]:
    """The estimate, line by line."""
    other = _NAMES[cost.exchange == _NAMES[False]]
    tasks = [(cost.units, "tokenize"), (cost.merge_tasks, "merge"), (cost.pair_tasks, "pair")]
    yield f"tasks:       {', '.join(f'{count:,} {name}' for count, name in tasks if count)}"
    yield (
        f"requests:    about {short(cost.requests_by_tokenize)} by tokenize, {short(cost.requests_by_merge)} by merge, "
        f"{short(cost.requests_by_pair)} by pair"
    )
    yield (
        f"exchange:    {cost.exchange}, ranges of about {size(cost.range_bytes)}; --exchange {other} would take about "
        f"{short(cost.requests_of_other_exchange)} requests by merge and pair"
    )
    yield (
        f"price:       about ${cost.request_dollars:,.2f} for these requests, at ${DOLLARS_PER_1000_READS:g} per 1,000 reads "
        f"and ${DOLLARS_PER_1000_WRITES:g} per 1,000 writes"
    )
    yield f"exchanged:   about {size(cost.stored_bytes)} written to scratch, {size(cost.read_bytes)} read from it"
    merging = f"{size(cost.merge_memory_bytes)} per merge task, " if cost.merge_tasks else ""
    yield (
        f"memory:      about {size(cost.tokenize_memory_bytes)} per tokenize task, {merging}"
        f"{size(cost.pair_memory_bytes)} per pair task"
    )
    yield f"time:        about {_core_time(cost.core_seconds)}, without start-up and waiting for storage"


def _core_time(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    return f"{minutes / 60:,.0f} core-hours" if minutes > 600 else f"{minutes} core-minute{'s' if minutes > 1 else ''}"

"""What is printed before a build (`prep plan`) and after it, a few lines each."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import NamedTuple

from prep.job import Job, make_job
from prep.pairing.recipes import Labels, recipe_of
from prep.partitions import MAX_TOKENS, MIN_HELD_OUT, Exchange, choose_exchange
from prep.plan import Plan
from prep.settings import ExchangeName, Settings
from prep.tasks import find_task_part
from prep.tokens.fast import REFERENCE, installed_engine
from prep.tokens.sources import WHOLE_BYTES
from prep.tokens.tokenize import RUN_BYTES
from prep.tokens.tokenizer import MAX_UNKNOWN_SHARE
from shards import storage
from shards.command.console import clock, short, size
from shards.manifest import Manifest

# Orders of magnitude, measured on web text and books.
TOKENS_PER_TEXT_BYTE = 0.23
SHARD_BYTES_PER_TOKEN = 1.8
STORE_BYTES_PER_TEXT_BYTE = 0.55
# Bytes of text per second and core. The pair stage takes that long for each copy.
_TOKENIZE_BYTES_PER_S, _REFERENCE_BYTES_PER_S, _PAIR_BYTES_PER_S = 30e6, 3e6, 35e6
# Requests to S3, as s3fs makes them: to look for a file that is not there, and to write a file in parts of this size.
FIND_MISSING, PART_BYTES = 2, 50 << 20
BLOCK_BYTES = 8 << 20  # that an input is read in
# Prices of Amazon S3 in 2025, standard storage.
DOLLARS_PER_1000_READS, DOLLARS_PER_1000_WRITES = 0.0004, 0.005
_NAMES: tuple[ExchangeName, ExchangeName] = ("one-level", "two-level")
_OTHER: tuple[ExchangeName, ExchangeName] = ("two-level", "one-level")
# Memory of a worker process with its imports and the cache of the fast tokenizer; and what a task holds at once.
_PROCESS_BYTES = 250 << 20
_TOKENIZE_BYTES_PER_TEXT_BYTE, _PAIR_BYTES_PER_TOKEN, _MERGE_BYTES_PER_BYTE = 3.0, 10.0, 3.2


def describe_plan(settings: Settings) -> Iterator[str]:
    """What a build would do, line by line."""
    job = make_job(settings)
    plan, settings = job.plan, job.settings
    cost = estimate(settings, plan, _has_fast_tokenizer(job))
    steps = ["vocabulary"] if settings.trained_vocab_size else []
    stages = ", ".join([*steps, "tokenize", *(["merge"] if cost.merge_tasks else []), "pair", "commit"])
    if settings.stage != "all":
        part = find_task_part(settings.stage, settings.task_shard, os.environ)
        stages = f"{settings.stage} only, part {part} of its tasks"
    entries = f", {job.tokenizer.vocab_size:,} entries" if job.tokenizer else ", trained on the corpus"
    yield f"inputs:      {cost.files:,} files, {size(cost.bytes)}{_kinds(plan)}"
    for file in plan.inputs[:10]:
        yield f"             {file.name} ({size(file.bytes)})"
    if cost.files > 10:
        yield f"             and {cost.files - 10:,} more"
    if job.finished():
        yield f"data set:    {settings.out} is finished; build would leave it as it is"
    yield f"tokenizer:   {settings.tokenizer}{entries}"
    yield f"stages:      {stages}"
    yield f"engine:      {settings.engine}, {settings.workers or 'as many tasks as it has workers'} at once"
    yield f"work units:  {cost.units:,} of up to {size(int(plan.units.bytes.max()))}"
    yield f"partitions:  {plan.num_partitions:,} (fewer if the corpus has few documents)"
    yield f"tokens:      about {short(cost.tokens)} per copy, {settings.copies} {'copy' if settings.copies == 1 else 'copies'}"
    yield f"output:      about {size(cost.output_bytes)} of {settings.format} in {settings.out}"
    yield f"scratch:     about {size(cost.stored_bytes)} in {settings.scratch}"
    yield from describe_estimate(cost)


def plan_as_json(settings: Settings) -> str:
    """All figures of the plan, by name."""
    job = make_job(settings)
    figures = {"partitions": job.plan.num_partitions, **asdict(estimate(job.settings, job.plan, _has_fast_tokenizer(job)))}
    return json.dumps(figures, indent=1)


def _has_fast_tokenizer(job: Job) -> bool:
    """Whether a fast tokenizer of the kind is installed; those that are trained on the corpus are of known kinds."""
    if job.settings.tokenizer_engine == "reference":
        return False
    if job.tokenizer:
        return installed_engine(job.tokenizer.definition) != REFERENCE
    return find_spec("nanotoken" if job.settings.trained_kind == "WordPiece" else "gigatoken") is not None


def _kinds(plan: Plan) -> str:
    kinds = sorted({f"{kind.format}.{kind.compression}".rstrip(".") for kind in plan.inputs.kinds()})
    estimated = "" if plan.text_bytes == plan.bytes else f", about {size(plan.text_bytes)} of text"
    return f" ({', '.join(kinds)}){estimated}"


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


def estimate(settings: Settings, plan: Plan, fast: bool) -> Estimate:
    """What a build will cost: see Estimate. `fast`: with a fast tokenizer."""
    text_bytes = plan.text_bytes
    tokens = text_bytes * TOKENS_PER_TEXT_BYTE
    stored = text_bytes * STORE_BYTES_PER_TEXT_BYTE
    num_units = len(plan.units)
    num_train = max(1, plan.num_partitions, math.ceil(tokens / MAX_TOKENS))
    num_pairs = num_train * settings.copies + math.ceil(num_train * settings.eval_fraction)
    exchange = choose_exchange(settings.exchange, num_units, num_pairs, int(stored), storage.is_local(settings.scratch))
    other = choose_exchange(_OTHER[exchange.num_groups > 0], num_units, num_pairs, int(stored), False)
    chosen, rejected = (_traffic(each, num_units, num_pairs, stored) for each in (exchange, other))
    shard_bytes = tokens / num_train * SHARD_BYTES_PER_TOKEN
    shards = math.ceil(shard_bytes / settings.shard_bytes)
    pair_writes = num_pairs * (shards * put_requests(min(shard_bytes, settings.shard_bytes)) + 1)
    tokenize_writes = num_units * (1 + put_requests(stored / num_units))
    by_tokenize = num_units * FIND_MISSING + plan.units.num_requests(BLOCK_BYTES) + tokenize_writes
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
        stored_bytes=int(stored) * (2 if chosen.merge_tasks else 1),
        read_bytes=int(stored) * (settings.copies + (1 if chosen.merge_tasks else 0)),
        output_bytes=int(tokens * settings.copies * SHARD_BYTES_PER_TOKEN),
        tokenize_memory_bytes=_PROCESS_BYTES + int(min(RUN_BYTES, text_bytes / num_units) * _TOKENIZE_BYTES_PER_TEXT_BYTE),
        merge_memory_bytes=_PROCESS_BYTES + int(_MERGE_BYTES_PER_BYTE * chosen.merged_bytes) if chosen.merge_tasks else 0,
        pair_memory_bytes=_PROCESS_BYTES + int(tokens / num_train * _PAIR_BYTES_PER_TOKEN),
        core_seconds=math.ceil(seconds + text_bytes * settings.copies / _PAIR_BYTES_PER_S),
    )


def _traffic(exchange: Exchange, num_units: int, num_pairs: int, stored: float) -> _Traffic:
    """The requests of merge and pair tasks, but for the shards: a range of a file takes two, unless the file is small."""
    tasks = exchange.num_groups * exchange.num_ranges
    unit_requests = 1 if stored / num_units <= WHOLE_BYTES else 2
    if not tasks:
        return _Traffic(0, 0, num_pairs * (FIND_MISSING + unit_requests * num_units), 0, num_units, 0.0)
    merged_bytes = stored / tasks
    writes = tasks * (1 + put_requests(merged_bytes))
    merging = tasks * FIND_MISSING + unit_requests * num_units * exchange.num_ranges + writes
    # A partition at the border of two ranges of places reads from both.
    sources = exchange.num_groups * (num_pairs + exchange.num_ranges - 1)
    merged_requests = 1 if merged_bytes <= WHOLE_BYTES else 2
    return _Traffic(
        tasks, merging, num_pairs * FIND_MISSING + merged_requests * sources, writes, exchange.num_groups, merged_bytes
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


def summary(manifest: Manifest, out: str, seconds: float) -> Iterator[str]:
    """What was built, and what looks wrong with it."""
    capacity = manifest.settings["pack_to"] or manifest.settings["max_seq_len"]
    for name, split in manifest.splits.items():
        total = split.totals()
        if not total["rows"]:
            yield f"{name}: nothing"
            continue
        labels = _about_labels(total, recipe_of(manifest.settings).labels)
        masked = f"{total['masked_tokens'] / total['tokens']:.1%} masked" if total["masked_tokens"] else "masked when read"
        full = total["tokens"] / (total["rows"] * capacity)
        weight = f"{total['bytes'] / total['tokens']:.2f} bytes per token"
        yield f"{name}: {total['sequences']:,} sequences, {total['tokens']:,} tokens in {total['rows']:,} rows, {full:.2%} full"
        yield f"    {masked}{labels}"
        yield f"    {size(total['bytes'])}, {weight}, in {len(split.shards)} shard{'s' if len(split.shards) != 1 else ''}"
    yield from _about_documents(manifest)
    yield from _warnings(manifest)
    yield f"{out}, {clock(seconds)}"
    yield f"data_fingerprint {manifest.data_fingerprint}"


def _about_labels(total: dict[str, int], labels: Labels | None) -> str:
    """The fraction of label 1 among the pairs that had a choice."""
    if labels is None:
        return ""
    unforced = total["sequences"] - total["forced_not_next"]
    if not unforced:
        return "; no pair had a choice"
    fraction = f"{(total['not_next'] - total['forced_not_next']) / unforced:.1%}"
    return f"; of the pairs{' with a choice' if total['forced_not_next'] else ''} {fraction} are {labels.names[1]}"


def _about_documents(manifest: Manifest) -> Iterator[str]:
    ledger = manifest.ledger
    documents = ledger["documents"]
    sentences = f", {ledger['sentences'] / max(1, documents['used']):.1f} sentences each"
    dropped = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in documents["dropped"].items())
    yield (
        f"documents: {documents['used']:,} of {documents['in']:,} used"
        + ("" if recipe_of(manifest.settings).keeps_text else sentences)
        + (f"; dropped: {dropped}" if dropped else "")
    )
    for number, corpus in enumerate(ledger["corpora"], 1) if manifest.settings["corpus_weight"] else ():
        counts = f"weight {corpus['weight']:g}, {corpus['documents']:,} documents, {corpus['copies']:,} with their copies"
        yield f"--corpus {number}: {counts}, {corpus['share']:.1%} of the tokens"


def _warnings(manifest: Manifest) -> Iterator[str]:
    train, held_out = (manifest.splits[name].totals() for name in ("train", "eval"))
    pairs = manifest.ledger["pairs"]
    if held_out["tokens"] * manifest.settings["copies"] > train["tokens"]:
        yield (
            f"warning: more is held out ({held_out['tokens']:,} tokens) than there is to train on; the documents are few: set "
            "--eval-fraction 0, or another --document"
        )
    if train["forced_not_next"] > 0.9 * train["sequences"]:
        yield "warning: nearly all pairs had no choice, because documents have one sentence; check that --document fits"
    lost = pairs["train"]["unpaired"] / max(1, pairs["train"]["made"])
    if lost > 0.05:
        yield f"note: {lost:.0%} of the tokens are in no sequence: --pairing {manifest.settings['pairing']} leaves them out"
    unknown_share = manifest.ledger["unknown_tokens"] / max(1, manifest.ledger["tokens"])
    if unknown_share > MAX_UNKNOWN_SHARE:
        yield f"warning: {unknown_share:.1%} of the tokens are [UNK]; choose a --tokenizer that fits the corpus, or train:N"
    if 0 < pairs["eval"]["documents"] < MIN_HELD_OUT:
        yield f"warning: only {pairs['eval']['documents']} documents are held out; the corpus is very small"

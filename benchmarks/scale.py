"""What corpora of a terabyte and more cost, without them: plans, and the real tasks on small models of large corpora.

    python -m benchmarks.scale [--only plan|requests|latency] [--write]

plan      `prep plan` of corpora from 1 TB to 1 PB, which are lists of names and sizes: tasks, requests, their price, memory per
          task, and the memory and time of the process that plans. Each is planned in a process of its own.
requests  The real stages against a real server of objects (moto) on this machine, with 5 ms of latency, on synthetic text.
          All sizes of the plan are divided by 1024: units, partitions, merged files. So 32 MB are a model of 32 GB, and 3
          sizes that differ by 16 times show how requests grow. Every request is counted where s3fs makes it, and
          compared with the plan. Requests of the process that runs the stages (listings, the sum, the manifest) are apart.
latency   A pair task of a partition of full size, on a disk and on the same server with 30 ms of latency: medians of its time.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch
from urllib.request import urlopen

import boto3
import s3fs
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

from benchmarks.common import machine, met, own_folder, say, table
from prep import estimate as estimates
from prep import partitions, plan, stages
from prep.build import build
from prep.corpus.documents import Rule
from prep.corpus.inputs import InputsBuilder, Kind, Root
from prep.estimate import Estimate, estimate
from prep.job import make_job
from prep.pairing.pair import pair_partition
from prep.pairing.task import PairTask
from prep.plan import Plan, make_units
from prep.records import PairRecord
from prep.settings import ExchangeName, Settings
from prep.tasks import vocabulary_task
from prep.tokens import sources, vocabulary
from shards.command.numbers import short, size

CORPORA = {"1 TB": (1000, 10**9), "10 TB": (10_000, 10**9), "100 TB": (25_000, 4 * 10**9), "1 PB": (62_500, 16 * 10**9)}
MODEL_BYTES = (128 << 10, 2 << 20, 32 << 20)
MODEL_SCALE = 1024
PAIR_TEXT_BYTES = 100_000_000
BUCKET = "s3://bucket"
_WORDS = [
    "the",
    "of",
    "a",
    "model",
    "text",
    "large",
    "small",
    "token",
    "pair",
    "mask",
    "shard",
    "row",
    "unit",
    "place",
    "key",
    "file",
    "disk",
    "store",
    "bucket",
    "range",
    "corpus",
]


class Measured(NamedTuple):
    """One model of a corpus: the plan's figures, and the requests that were counted, by stage."""

    text_bytes: int
    exchange: ExchangeName
    cost: Estimate
    counted: Counter[str]


def plan_of(num_files: int, file_bytes: int) -> tuple[Estimate, float]:
    """The estimate for files that are not there, and the seconds that planning took."""
    started = time.monotonic()
    builder = InputsBuilder()
    for number in range(num_files):
        name = f"part-{number:07d}.jsonl"
        builder.add(Root(f"{BUCKET}/corpus/", "corpus/"), name, file_bytes, "0" * 32, Kind("jsonl", ""), 0, f"/{name}")
    inputs = builder.finish()
    text_bytes = int(inputs.bytes.sum())
    num_partitions = -(-text_bytes // plan._partition_bytes(text_bytes))
    settings = Settings(corpus=(f"{BUCKET}/corpus",), out=f"{BUCKET}/out", scratch=f"{BUCKET}/scratch")
    cost = estimate(settings, Plan(inputs, make_units(inputs, Rule("line", "text")), num_partitions), fast=True)
    return cost, time.monotonic() - started


def plan_rows() -> Iterator[list[str]]:
    """A row of the table for each size; each is planned by this module in another process."""
    for name in CORPORA:
        say(f"planning {name}")
        command = [sys.executable, "-m", "benchmarks.scale", "--plan-one", name]
        answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        requests = [answer[f"requests_by_{stage}"] for stage in ("tokenize", "merge", "pair")]
        memory = max(answer[f"{stage}_memory_bytes"] for stage in ("tokenize", "merge", "pair"))
        yield [
            name,
            f"{answer['units']:,}",
            f"{answer['merge_tasks']:,}",
            f"{answer['pair_tasks']:,}",
            " + ".join(map(short, requests)),
            short(sum(requests)),
            f"${answer['request_dollars']:,.0f}",
            short(answer["requests_of_other_exchange"]),
            size(memory),
            size(answer["parent_bytes"]),
            f"{answer['seconds']:.0f} s",
        ]


@contextmanager
def moto() -> Iterator[str]:
    """The endpoint of an S3 server on this machine, which has an empty bucket; s3fs finds it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    values = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    values["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
    with patch.dict(os.environ, values):
        urlopen(f"{values['AWS_ENDPOINT_URL']}/moto-api/reset", b"").close()  # its state is that of this process
        boto3.client("s3").create_bucket(Bucket=BUCKET.removeprefix("s3://"))
        try:
            yield values["AWS_ENDPOINT_URL"]
        finally:
            server.stop()


@contextmanager
def counted_requests(latency_s: float) -> Iterator[Counter[str]]:
    """Counts the requests that s3fs makes, by the stage whose task runs, and delays each."""
    counter: Counter[str] = Counter()
    stage = ["parent"]
    original = s3fs.S3FileSystem._call_s3

    async def call(fs: Any, method: str, *arguments: Any, **options: Any) -> Any:
        counter[stage[0]] += 1
        await asyncio.sleep(latency_s)
        return await original(fs, method, *arguments, **options)

    def within(name: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def run(task: Any) -> Any:
            stage[0] = name
            try:
                return function(task)
            finally:
                stage[0] = "parent"

        return run

    tasks = {"tokenize": "tokenize_unit", "merge": "merge_units", "pair": "pair_partition"}
    with patch.object(s3fs.S3FileSystem, "_call_s3", call):
        originals = {name: getattr(stages, function) for name, function in tasks.items()}
        for name, function in tasks.items():
            setattr(stages, function, within(name, originals[name]))
        try:
            yield counter
        finally:
            for name, function in tasks.items():
                setattr(stages, function, originals[name])


class Inline(Executor):
    """Runs each task at once in this process, so that its requests can be counted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The result of the call, which is done."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def inline(workers: int) -> Executor:
    """The executor of `--engine benchmarks.scale:inline`."""
    return Inline()


@contextmanager
def model_sizes() -> Iterator[None]:
    """Units, partitions and merged files that are MODEL_SCALE times as small."""
    changes: list[tuple[Any, str, int]] = [
        (plan, "CUT_FROM", plan.CUT_FROM // MODEL_SCALE),
        (plan, "MIB", plan.MIB // MODEL_SCALE),
        (plan, "MAX_SPAN_BYTES", plan.MAX_SPAN_BYTES // MODEL_SCALE),
        (plan, "MAX_UNIT_BYTES", plan.MAX_UNIT_BYTES // MODEL_SCALE),
        (plan, "MIN_PARTITION_BYTES", plan.MIN_PARTITION_BYTES // MODEL_SCALE),
        (plan, "MAX_PARTITION_BYTES", plan.MAX_PARTITION_BYTES // MODEL_SCALE),
        (plan, "SMALL_PARTITION_BYTES", plan.SMALL_PARTITION_BYTES // MODEL_SCALE),
        (partitions, "MERGE_BYTES", partitions.MERGE_BYTES // MODEL_SCALE),
        (partitions, "MIN_DOCUMENTS", 2),
        (sources, "WHOLE_BYTES", 0),
        (estimates, "WHOLE_BYTES", 0),
    ]
    patches = [patch.object(module, name, value) for module, name, value in changes]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


def text_of(num_bytes: int) -> Iterator[str]:
    """Lines of about 1 kB, of several sentences, the same every time."""
    written = number = 0
    while written < num_bytes:
        sentences = []
        for s in range(12):
            words = (_WORDS[(number * 7 + s * 5 + w * (number % 13 + 1)) % len(_WORDS)] for w in range(6 + (number + s) % 12))
            sentences.append(" ".join(words).capitalize() + ".")
        line = f"Line {number}. {' '.join(sentences)}\n"
        yield line
        written += len(line)
        number += 1


def write_text(folder: Path, num_bytes: int, num_files: int) -> Path:
    """The text in files that are about equally large."""
    folder.mkdir(parents=True)
    files = [(folder / f"part-{number:05d}.txt").open("w") for number in range(num_files)]
    for number, line in enumerate(text_of(num_bytes)):
        files[number % num_files].write(line)
    for file in files:
        file.close()
    return folder


def measure_requests(folder: Path) -> Iterator[Measured]:
    """Builds each model of a corpus in both exchanges, but the largest one in two levels only."""
    for text_bytes in MODEL_BYTES:
        corpus = write_text(folder / str(text_bytes), text_bytes, max(2, text_bytes >> 20))
        tokenizer = make_vocabulary(folder / f"vocabulary-{text_bytes}", corpus)
        exchanges: tuple[ExchangeName, ...] = ("one-level", "two-level")
        for exchange in exchanges:
            if exchange == "one-level" and text_bytes == MODEL_BYTES[-1]:
                continue
            say(f"{size(text_bytes)} in {exchange}")
            s3fs.S3FileSystem.clear_instance_cache()
            with moto(), model_sizes():
                fs = s3fs.S3FileSystem()
                for path in corpus.iterdir():
                    fs.put_file(str(path), f"{BUCKET}/corpus/{path.name}")
                settings = Settings(
                    corpus=(f"{BUCKET}/corpus",),
                    out=f"{BUCKET}/out",
                    scratch=f"{BUCKET}/scratch",
                    tokenizer=tokenizer,
                    engine="benchmarks.scale:inline",
                    workers=1,
                    exchange=exchange,
                )
                cost = estimate(settings, make_job(settings).plan, fast=True)
                with counted_requests(0.005) as counter:
                    build(settings)
            yield Measured(text_bytes, exchange, cost, counter)


def make_vocabulary(folder: Path, corpus: Path) -> str:
    """A vocabulary for the text; its folder."""
    places = {"out": str(folder / "no"), "scratch": str(folder / "vocabulary")}
    settings = Settings(corpus=(str(corpus),), tokenizer="train:500", **places)
    return vocabulary.make_vocabulary(vocabulary_task(settings, plan.make_plan(settings)))


def request_rows(measured: Sequence[Measured]) -> Iterator[list[str]]:
    """Planned and counted requests of each stage."""
    for text_bytes, exchange, cost, counted in measured:
        planned = {stage: getattr(cost, f"requests_by_{stage}") for stage in ("tokenize", "merge", "pair")}
        worst = max(abs(counted[stage] / value - 1) for stage, value in planned.items() if value)
        yield [
            size(text_bytes),
            exchange,
            f"{cost.units}, {cost.merge_tasks}, {cost.pair_tasks}",
            " + ".join(f"{value:,}" for value in planned.values()),
            " + ".join(f"{counted[stage]:,}" for stage in planned),
            f"{worst:.1%}, {met(worst <= 0.05)}",
            f"{counted['parent']:,}",
        ]


def pair_seconds(folder: Path, repeats: int) -> dict[str, list[float]]:
    """How long the pair task of one partition takes, by where its tokens and shards are."""
    corpus = write_text(folder / "pair", PAIR_TEXT_BYTES, 1)
    tokenizer = make_vocabulary(folder, corpus)
    seconds: dict[str, list[float]] = {"disk": [], "server": []}
    tasks: dict[str, PairTask] = {}
    s3fs.S3FileSystem.clear_instance_cache()
    with moto(), patch.object(plan, "_partition_bytes", lambda _: PAIR_TEXT_BYTES * 2):
        for name, place in (("disk", str(folder / "disk")), ("server", BUCKET)):
            settings = Settings(
                corpus=(str(corpus),),
                out=f"{place}/out",
                scratch=f"{place}/scratch",
                tokenizer=tokenizer,
                engine="benchmarks.scale:inline",
                workers=1,
            )

            def note(task: PairTask, name: str = name) -> PairRecord:
                tasks.setdefault(name, task)
                return pair_partition(task)

            with patch.object(stages, "pair_partition", note):
                build(settings)
        for _ in range(repeats):
            for name, task in tasks.items():
                fresh = replace(task, records=f"{task.records}-{time.monotonic_ns()}")
                with counted_requests(0.03):
                    started = time.monotonic()
                    pair_partition(fresh)
                    seconds[name].append(time.monotonic() - started)
    return seconds


def main() -> None:
    """Measures, and prints or writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=("plan", "requests", "latency"))
    parser.add_argument("--plan-one", choices=CORPORA, help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scratch", metavar="FOLDER")
    parser.add_argument("--write", action="store_true", help="write benchmarks/scale.md")
    arguments = parser.parse_args()
    if arguments.plan_one:
        cost, seconds = plan_of(*CORPORA[arguments.plan_one])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({**cost.__dict__, "seconds": seconds, "parent_bytes": peak}))
        return
    lines = ["# Scale", "", *machine("numpy", "s3fs", "moto").splitlines(), ""]
    with own_folder(arguments.scratch) as folder:
        if arguments.only in (None, "plan"):
            header = ("text", "units", "merge tasks", "pair tasks", "requests by tokenize + merge + pair", "all", "price")
            header += ("merge and pair in the other exchange", "memory per task", "memory of the parent", "time to plan")
            lines += ["## Plans", "", *table(header, list(plan_rows()))]
        if arguments.only in (None, "requests"):
            header = ("text", "exchange", "units, merge, pair", "planned by tokenize + merge + pair", "counted")
            header += ("largest difference", "by the parent")
            lines += ["## Requests", "", *table(header, list(request_rows(list(measure_requests(folder)))))]
        if arguments.only in (None, "latency"):
            seconds = pair_seconds(folder, arguments.repeats)
            disk, server = (median(seconds[name]) for name in ("disk", "server"))
            rows = [[f"{disk:.2f} s", f"{server:.2f} s", f"{server / disk:.2f}, {met(server / disk <= 1.2)}"]]
            lines += ["## Latency", "", *table(("on a disk", "on a server, 30 ms per request", "ratio"), rows)]
    text = "\n".join(lines)
    if arguments.write:
        Path(__file__).with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

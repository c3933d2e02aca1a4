"""What corpora of a terabyte and more cost, without them: plans, and the real tasks on small models of large corpora.

    python -m benchmarks.scale [--only plan|requests|latency] [--write]

plan      `prep plan` of corpora from 1 TB to 1 PB, which are lists of names and sizes: tasks, requests, their price, memory per
          task, and the memory and time of the process that plans. Each is planned in a process of its own.
requests  The real stages against a real server of objects (moto) on this machine, on synthetic text. All sizes of the plan
          are divided by 1024: units, partitions, merged files. So 8 MB are a model of 8 GB, and sizes that differ by 16
          times show how requests grow. Every request is counted where s3fs makes it, and compared with the plan. Requests
          of the process that runs the stages (listings, the sum, the manifest) are apart. 4 minutes.
latency   A pair task of a partition of a corpus of 1 TB and of one of 10 TB, on a disk, and on the same server without and with
          30 ms of latency: medians of its time. The server is a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple
from unittest.mock import patch

import s3fs

from benchmarks.common import machine, met, own_folder, say, table
from benchmarks.scale_models import BUCKET, counted_requests, model_sizes, moto, write_text
from prep import plan, stages
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
from prep.tokens import vocabulary
from shards.command.numbers import short, size

CORPORA = {"1 TB": (1000, 10**9), "10 TB": (10_000, 10**9), "100 TB": (25_000, 4 * 10**9), "1 PB": (62_500, 16 * 10**9)}
# Bytes of text, and sentences per document: a small model needs short documents, because an empty range takes no request.
MODELS = {128 << 10: 1, 2 << 20: 12, 8 << 20: 12, 32 << 20: 12}
MOST_ONE_LEVEL_BYTES = 2 << 20  # of a model that is built in one level too: these requests grow as the square of its size
VOCAB_SIZE = 500  # of the models
PAIR_TEXT_BYTES = {"1 TB": 122_000_000, "10 TB": 268_000_000}  # of a partition of a corpus of that size


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
    cost = estimate(settings, Plan(inputs, make_units(inputs, Rule("line", "text")), num_partitions), 30_522, fast=True)
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


def measure_requests(folder: Path) -> Iterator[Measured]:
    """Builds each model of a corpus in both exchanges, but the large ones in two levels only."""
    for text_bytes, sentences in MODELS.items():
        corpus = write_text(folder / str(text_bytes), text_bytes, max(2, text_bytes >> 20), sentences)
        tokenizer = make_vocabulary(folder / f"vocabulary-{text_bytes}", corpus)
        exchanges: tuple[ExchangeName, ...] = ("one-level", "two-level")
        for exchange in exchanges:
            if exchange == "one-level" and text_bytes > MOST_ONE_LEVEL_BYTES:
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
                    engine="benchmarks.scale_models:inline",
                    workers=1,
                    exchange=exchange,
                )
                cost = estimate(settings, make_job(settings).plan, VOCAB_SIZE, fast=True)
                with counted_requests(0) as counter:
                    build(settings)
            yield Measured(text_bytes, exchange, cost, counter)


def make_vocabulary(folder: Path, corpus: Path) -> str:
    """A vocabulary for the text; its folder."""
    places = {"out": str(folder / "no"), "scratch": str(folder / "vocabulary")}
    settings = Settings(corpus=(str(corpus),), tokenizer=f"train:{VOCAB_SIZE}", **places)
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


def pair_seconds(folder: Path, text_bytes: int, repeats: int) -> dict[str, list[float]]:
    """How long the pair task of one partition takes, by where its tokens and shards are, and how long a request is delayed."""
    corpus = write_text(folder / "pair", text_bytes, 1)
    tokenizer = make_vocabulary(folder, corpus)
    seconds: dict[str, list[float]] = {"disk": [], "server": [], "slow server": []}
    tasks: dict[str, PairTask] = {}
    s3fs.S3FileSystem.clear_instance_cache()
    with moto(), patch.object(plan, "_partition_bytes", lambda _: text_bytes * 2):
        for name, place in (("disk", str(folder / "disk")), ("server", BUCKET)):
            settings = Settings(
                corpus=(str(corpus),),
                out=f"{place}/out",
                scratch=f"{place}/scratch",
                tokenizer=tokenizer,
                engine="benchmarks.scale_models:inline",
                workers=1,
            )

            def note(task: PairTask, name: str = name) -> PairRecord:
                tasks.setdefault(name, task)
                return pair_partition(task)

            with patch.object(stages, "pair_partition", note):
                build(settings)
        for _ in range(repeats):
            for name in seconds:
                task = tasks["disk" if name == "disk" else "server"]
                fresh = replace(task, records=f"{task.records}-{time.monotonic_ns()}")
                with counted_requests(0.03 if name == "slow server" else 0.0):
                    started = time.monotonic()
                    pair_partition(fresh)
                    seconds[name].append(time.monotonic() - started)
    return seconds


def latency_rows(folder: Path, repeats: int) -> Iterator[list[str]]:
    """Medians, and what they are to each other, for each size of a partition."""
    for name, text_bytes in PAIR_TEXT_BYTES.items():
        with own_folder(str(folder)) as place:
            disk, server, slow = (median(times) for times in pair_seconds(place, text_bytes, repeats).values())
        ratios = [f"{slow / base:.2f}, {met(slow / base <= 1.2)}" for base in (disk, server)]
        yield [name, size(text_bytes), *(f"{seconds:.2f} s" for seconds in (disk, server, slow)), *ratios]


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
            header = ("corpus", "text of the partition", "on a disk", "on a server", "there, 30 ms more per request")
            header += ("to the disk", "to the server")
            rows = list(latency_rows(folder, arguments.repeats))
            lines += ["## Latency", "", *table(header, rows)]
    text = "\n".join(lines)
    if arguments.write:
        Path(__file__).with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

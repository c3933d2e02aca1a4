"""Measures how fast shards are read on one core, by the trainer's reader and by others.

    python -m benchmarks.reader [--megabytes 200] [--sequences 40000] [--repeats N] [--peer-python PATH] [--scratch DIR]

ours    The train split of the demo corpus, 128 packed into 512, repeated until its shards have about --megabytes
        as Parquet; an epoch, as rows (`read_steps`) and as batches (`ShardStream(packed=True)`), with the sizes of a step
        that `python -m train` has by default. Every shard is hashed, page checksums are verified, each row group is
        decoded once, and the order is that of training. Its windows hold at least 64 x 1024 rows; a warning is printed
        where the data set is not more than twice as large.
others  The first shards that have --sequences, or a copy of them in the reader's own format, made before: shuffled, in this
        process alone (a worker would be a second one), as benchmarks/peers.py says. They deliver samples, not batches.

Each reading is a process of its own, on one core, after a short one that is not counted; readers take turns. A rate is
sequences by the processor time of all threads of the process, which other processes disturb less than the wall clock that
stands beside it. Shown are medians, and how many times as fast our batches are: those from Parquet, or from WebDataset for
`webdataset`. Files come from memory, as after a first reading. LitData and MosaicML Streaming may be installed elsewhere than
in this environment (they want other versions of what it has): --peer-python is the interpreter that has them and numpy.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import ROOT, build_demo, machine, met, own_folder, say, table
from benchmarks.peers import READERS, SPLIT
from shards.dataset import open_data_set
from shards.errors import UserError
from shards.formats import FORMATS
from shards.manifest import Manifest
from shards.schema import concatenate
from train.data.order import MAX_LANES, WINDOW_ROWS

TARGET = 300_000
# Size of one copy of the demo corpus, as Parquet.
MEGABYTES_A_COPY = 4.53
ELSEWHERE = ("litdata", "mosaic")
QUIET = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "PYTHONWARNINGS": "ignore"}


class Lane(NamedTuple):
    """A line of the table: a reader, on a place."""

    label: str
    reader: str
    source: Path
    form: str  # what our batches that it is compared with are read from


def find_lanes(folder: Path, python: str, missing: list[str]) -> Iterator[Lane]:
    """Those that can be measured; the packages of the others go to `missing`."""
    for form, name in (("parquet", "Parquet"), ("webdataset", "WebDataset")):
        yield Lane(f"ours, rows, {name}", "rows", folder / form, form)
        yield Lane(f"ours, batches, {name}", "batches", folder / form, form)
    what = {
        "datasets-streaming": "streaming Parquet",
        "datasets-map": "map-style, Arrow",
        "webdataset": "the .tar.gz shards",
        "litdata": "StreamingDataset",
        "mosaic": "StreamingDataset, MDS",
    }
    for reader, how in what.items():
        package = READERS[reader].package
        version = run(python, "version", reader, folder)
        if version is None:
            missing.append(str(package))
            continue
        yield Lane(
            f"{package} {version}, {how}", reader, folder / "sample", "webdataset" if reader == "webdataset" else "parquet"
        )


def run(python: str, action: str, reader: str, source: Path) -> Any:
    """What a process of benchmarks.peers says, or the end of the benchmark."""
    command = [python if reader in ELSEWHERE else sys.executable, "-m", "benchmarks.peers", action, reader, str(source)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | QUIET, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stderr}{' '.join(command)} ended with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def make_sample(folder: Path, manifest: Manifest, num_sequences: int) -> tuple[int, int]:
    """Writes the first shards, with `num_sequences` sequences, in both formats and as arrays. Returns sequences and tokens."""
    sample = folder / "sample"
    sample.mkdir()
    blocks, found = [], 0
    for shard in manifest.splits[SPLIT].shards:
        if found < num_sequences:
            place = Path(shard.path)
            for form in FORMATS:
                name = place.name.removesuffix(place.suffix) + FORMATS[form].SUFFIX
                shutil.copy(folder / form / SPLIT / name, sample / name)
            blocks.append(FORMATS["parquet"].read(str(folder / "parquet" / place), shard.row_groups))
            found += shard.sequences
    rows = concatenate(blocks)
    assert rows.masked_labels is not None and rows.next_sentence_label is not None
    starts, at = rows.sequence_starts(), rows.masked_indices()
    sequence = np.searchsorted(starts, at, side="right") - 1
    np.savez(
        sample / "sequences.npz",
        lengths=rows.sequence_lengths,
        input_ids=rows.input_ids,
        segment_a_lengths=rows.segment_a_lengths,
        next_sentence_label=rows.next_sentence_label,
        masked_counts=np.bincount(sequence, minlength=len(starts) - 1),
        masked_positions=(at - starts[sequence]).astype(np.uint16),
        masked_labels=rows.masked_labels,
    )
    return len(rows.sequence_lengths), len(rows.input_ids)


def measure(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """Builds, converts, and times every reader `--repeats` times; the lines of the table."""
    copies = max(1, round(arguments.megabytes / MEGABYTES_A_COPY))
    for form in FORMATS:
        build_demo(folder, form, f"--copies={copies}", f"--format={form}")
    manifest = open_data_set(str(folder / "parquet"))
    total = manifest.splits[SPLIT].totals()
    if total["rows"] < 2 * MAX_LANES * WINDOW_ROWS:
        say(f"warning: {total['rows']:,} rows are too few to measure the steady state; ask for more --megabytes")
    whole, part = (total["sequences"], total["tokens"]), make_sample(folder, manifest, arguments.sequences)
    missing: list[str] = []
    lanes = list(find_lanes(folder, arguments.peer_python, missing))
    for lane in lanes:
        if READERS[lane.reader].convert:
            say(f"converting for {lane.label}")
            run(arguments.peer_python, "convert", lane.reader, lane.source)
    results = time_lanes(arguments, lanes, whole, part)
    groups = sum(len(shard.row_groups) for shard in manifest.splits[SPLIT].shards)
    title = (
        f"Reading on one core: medians of {arguments.repeats}. Ours reads {whole[0]:,} sequences in {total['rows']:,} rows and "
        f"{groups:,} row groups, the others {part[0]:,} of them."
    )
    header = ["sequences a second", "CPU second", "lowest-highest", "wall clock", "ours : it", "target", "met"]
    rows = [*rows_of(lanes, results), *([f"{package}: not installed", *[""] * 6] for package in missing)]
    hint = [f"Not installed: `pip install {' '.join(missing)}`, maybe elsewhere, for --peer-python.", ""] if missing else []
    return [title, "", *table(header, rows), *hint]


def time_lanes(
    arguments: argparse.Namespace, lanes: list[Lane], whole: tuple[int, int], part: tuple[int, int]
) -> dict[str, list[tuple[float, float]]]:
    """Sequences by CPU second and by second, a pair a repeat, by label. Each lane must have delivered what there is."""
    results: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for repeat in range(arguments.repeats):
        for lane in lanes:
            found = run(arguments.peer_python, "read", lane.reader, lane.source)
            there = whole if READERS[lane.reader].package is None else part
            if (found["sequences"], found["tokens"]) != there:
                sys.exit(f"{lane.label}: delivered {found}, there are {there[0]} sequences of {there[1]} tokens")
            results[lane.label].append((there[0] / found["cpu_s"], there[0] / found["wall_s"]))
            say(f"repeat {repeat + 1}, {lane.label}: {results[lane.label][-1][0]:,.0f} a CPU second, {found['wall_s']:.1f} s")
    return results


def rows_of(lanes: list[Lane], results: dict[str, list[tuple[float, float]]]) -> Iterator[list[str]]:
    """What there is to say of each lane."""
    rates = {label: [median(column) for column in zip(*each, strict=True)] for label, each in results.items()}
    ours = {lane.form: rates[lane.label][0] for lane in lanes if lane.reader == "batches"}
    for lane in lanes:
        cpu, wall = rates[lane.label]
        each = [pair[0] for pair in results[lane.label]]
        spread = f"{min(each):,.0f}-{max(each):,.0f}"
        if READERS[lane.reader].package is None:
            verdict = ["", f">= {TARGET:,}", met(cpu >= TARGET)]
        else:
            verdict = [f"{ours[lane.form] / cpu:.1f}", "", ""]
        yield [lane.label, f"{cpu:,.0f}", spread, f"{wall:,.0f}", *verdict]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reader", description="Measures how fast shards are read.")
    parser.add_argument("--megabytes", type=int, default=200, help="of Parquet shards, for ours (default: 200)")
    parser.add_argument("--sequences", type=int, default=40_000, help="for the others (default: 40,000)")
    parser.add_argument("--repeats", type=int, default=3, help="of every timing (default: 3)")
    parser.add_argument("--peer-python", default=sys.executable, help="what has litdata and mosaicml-streaming (default: this)")
    parser.add_argument("--scratch", help="folder for the data sets (default: the system's temporary one)")
    arguments = parser.parse_args(argv)
    if min(arguments.megabytes, arguments.sequences, arguments.repeats) < 1:
        parser.error("--megabytes, --sequences and --repeats must be positive")
    if shutil.which(arguments.peer_python) is None:
        parser.error(f"--peer-python {arguments.peer_python}: is no program")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints, and removes what it made."""
    arguments = parse(argv)
    try:
        with own_folder(arguments.scratch) as folder:
            lines = measure(arguments, folder)
    except UserError as error:
        sys.exit(f"{error}")
    print("\n".join([machine("torch", "numpy", "numba", "pyarrow"), "", *lines]))


if __name__ == "__main__":
    main()

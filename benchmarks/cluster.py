"""Measures what building through a cluster costs: `--engine dask` against the local processes, on the same text.

    python -m benchmarks.cluster [--megabytes 200] [--repeats 3] [--workers 2] [--scratch FOLDER] [--write]

A Dask scheduler and its workers, of one thread each, run all the time on this machine, so their start is not counted.
Measured is the wall clock of the command. The engines take turns, in the other direction every second time.
Shown are medians and their ratio; the data of all builds must be the same. The text is that of `benchmarks.prep`. Needs the
extra `dask`.
"""

import argparse
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.common import ROOT, machine, own_folder, say, table
from benchmarks.prep import MEASURED, Bench, build, tokenizer_of, write_text


@contextmanager
def dask_cluster(folder: Path, workers: int) -> Iterator[str]:
    """The address of a scheduler with that many workers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    flags = ["--no-dashboard", "--nthreads", "1", "--no-nanny", "--local-directory", str(folder)]
    commands = [["dask_scheduler", "--host", address, "--no-dashboard"], *[["dask_worker", address, *flags]] * workers]
    with (folder / "dask.log").open("w") as log:
        started = [
            subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{command[0]}", *command[1:]], cwd=ROOT, stdout=log, stderr=log
            )
            for command in commands
        ]
        try:
            yield address
        finally:
            for process in started:
                process.kill()
                process.wait()


def measure(bench: Bench) -> list[str]:
    """Builds by turns; the table."""
    arguments = bench.arguments
    text = write_text(bench.folder / "text.txt", arguments.megabytes * 1_000_000)
    flags = [*MEASURED, f"--tokenizer={tokenizer_of(bench, text)[0]}"]
    seconds: dict[str, list[float]] = {"local": [], "dask": []}
    fingerprints = set()
    with dask_cluster(bench.folder, arguments.workers) as address:
        engines = {"local": [f"--workers={arguments.workers}"], "dask": [f"--engine=dask:{address}"]}
        small = write_text(bench.folder / "small.txt", 5_000_000)
        for name in engines:  # compiles what is compiled once, and imports what workers that stay import once
            build(bench, small, [*flags, *engines[name]])
        for repeat in range(arguments.repeats):
            for name in list(engines)[:: -1 if repeat % 2 else 1]:
                taken, manifest, _ = build(bench, text, [*flags, *engines[name]])
                seconds[name].append(taken)
                fingerprints.add(manifest["data_fingerprint"])
                say(f"repeat {repeat + 1}, {name}: {taken:.1f} s")
    if len(fingerprints) != 1:
        sys.exit(f"the builds gave different data: {', '.join(sorted(fingerprints))}")
    megabytes = text.stat().st_size / 1e6
    rows = [
        [name, f"{median(times):.1f} s", f"{min(times):.1f}-{max(times):.1f}", f"{megabytes / median(times):.2f} MB/s"]
        for name, times in seconds.items()
    ]
    rows.append(["dask : local", f"{median(seconds['dask']) / median(seconds['local']):.2f}", "", ""])
    title = (
        f"{megabytes:,.1f} MB of text by {arguments.workers} workers, medians of {arguments.repeats}; the same data each time."
    )
    return [title, "", *table(["engine", "wall clock", "lowest-highest", "speed"], rows)]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints, and removes what it made."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description="Measures builds through Dask.")
    parser.add_argument("--megabytes", type=int, default=200, help="of text (default: 200)")
    parser.add_argument("--repeats", type=int, default=3, help="of every build (default: 3)")
    parser.add_argument("--workers", type=int, default=2, help="of either engine (default: 2)")
    parser.add_argument("--scratch", help="folder for text and builds (default: the system's temporary one)")
    parser.add_argument("--tokenizer", help="tokenizer.json, vocab.txt or folder (default: train 30,000 entries)")
    parser.add_argument("--keep", action="store_true", help="leave texts and builds where they are")
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/cluster.md too")
    arguments = parser.parse_args(argv)
    with own_folder(arguments.scratch, arguments.keep) as folder:
        lines = [machine("distributed", "tokenizers", "nanotoken", "pyarrow"), "", *measure(Bench(arguments, folder))]
    print("\n".join(lines))
    if arguments.write:
        Path(__file__).with_suffix(".md").write_text("\n".join(["# Benchmark of clusters", "", *lines]))


if __name__ == "__main__":
    main()

"""Measures training on one GPU: our trainer with each of its switches, and transformers' padded model on the same rows.

    python -m benchmarks.gpu [--quick] [--only LINE,...] [--list]

It needs torch, transformers, safetensors, numba, pyarrow, fsspec and rich, and makes its data itself: random ids in sequences
with the lengths of encyclopedia articles, of at most 128 and 512 tokens, packed into rows of 512. How a line is measured is at
the top of `benchmarks/gpu_runs.py`.

Each line is printed when it is measured: the median speed of three intervals in real tokens (special tokens count, padding does
not), the lowest and the highest; the used share of the card's peak in bf16 (MFU, of the real tokens' operations only); seconds
from the start of the model to the end of the first step, compilation included (later lines find kernels of earlier ones in the
cache on disk); the peak of the device's memory. Some lines have a profile: the share of each kind of kernel in the time of a
step, and its microseconds per 1,000 real tokens; "idle" is the rest of the step. A line that fails does not end the others.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from fnmatch import fnmatchcase
from importlib.metadata import version
from statistics import median

import torch

from benchmarks.common import met, own_folder, say
from benchmarks.gpu_runs import MEASURES, PROFILED_STEPS, Line, Place, Result, clean_device, is_lost
from benchmarks.kernels import KINDS, by_kind, largest
from benchmarks.random_data import folder_of, padding_share, write_data_set
from train.models.encoder import quiet

VOCAB_SIZE = 30_522
DATA_ROWS = 1024
LENGTHS = (128, 512)
MINUTES, QUICK_MINUTES = 7.0, 3.3  # the last line to start takes up to 50 s

LINES = (
    Line("base-128", "ours", is_quick=True, profiled=True),
    Line("transformers-128", "transformers", is_quick=True),
    Line("transformers-128-compiled", "transformers", settings={"compile": True}, is_quick=True),
    Line("base-512", "ours", longest=512, is_quick=True, profiled=True),
    Line("small-128", "ours", "small", is_quick=True, profiled=True),
    Line("transformers-512", "transformers", longest=512, rows=32),
    Line("base-128-eager", "ours", settings={"compile": "off"}, profiled=True),
    Line("small-128-layers", "ours", "small", settings={"cuda_graphs": "off"}),
    Line("small-128-eager", "ours", "small", settings={"compile": "off"}),
    Line("command-base-128", "command"),
    # Why are 256 rows slower than 128? The profiles show which kernels take longer per token, the notes whether the driver was
    # asked for memory or the clock fell, and the next line whether the allocator is to blame.
    Line("base-128-rows-256", "ours", rows=256, profiled=True),
    Line("base-128-rows-256-expandable", "ours", rows=256, allocator="expandable_segments:True"),
    Line("base-128-rows-64", "ours", rows=64, profiled=True),
    Line("large-128", "ours", "large"),
    Line("base-128-no-dropout", "ours", settings={"dropout": 0.0}),
    Line("base-128-padded", "ours", settings={"attention": "padded"}, profiled=True),
    Line("base-128-graphs", "ours", settings={"cuda_graphs": "on"}),
    Line("base-128-checkpointing", "ours", settings={"activation_checkpointing": True}),
    Line("modernbert-base-512", "ours", "modernbert-base", longest=512, settings={"ignore_pairs": True}, profiled=True),
    Line("command-small-128", "command", "small"),
    Line("large-512", "ours", "large", longest=512),
    Line("transformers-512-compiled", "transformers", longest=512, rows=32, settings={"compile": True}),
    Line("base-512-padded", "ours", longest=512, settings={"attention": "padded"}),
    Line("command-base-128-auto", "command", rows=256, settings={"micro_batch": "auto"}),
    Line("tiny-128", "ours", "tiny"),
    Line("small-128-rows-512", "ours", "small", rows=512),
    Line("modernbert-base-128", "ours", "modernbert-base", settings={"ignore_pairs": True}),
)
# What is to be reached on an H100 or H200: a line, its least speed, or its ratio to another line.
TARGETS: tuple[tuple[str, float | str, float], ...] = (
    ("base-128", "tokens/s", 700e3),
    ("base-512", "tokens/s", 620e3),
    ("small-128", "tokens/s", 3e6),
    ("base-128", "transformers-128-compiled", 1.7),
    ("base-512", "transformers-512", 5.0),
)
COLUMNS = ("line", "real tokens/s", "lowest-highest", "MFU", "first step, s", "peak, GB", "kernels and notes")
_WIDTHS = (30, 13, 21, 6, 13, 8, 0)


class LostDeviceError(Exception):
    """The device does not work for this process any more. `rest`: the lines that are left."""

    def __init__(self, rest: Sequence[Line]) -> None:
        super().__init__()
        self.rest = rest


def row(cells: Sequence[str]) -> str:
    """A row of the table, in Markdown. Rows are printed one by one, so widths are fixed."""
    return f"| {' | '.join(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True))} |"


def cells_of(line: Line, result: Result) -> list[str]:
    """What the table says of a line."""
    middle = median(result.speeds)
    return [
        line.name,
        f"{middle:,.0f}",
        f"{min(result.speeds):,.0f}-{max(result.speeds):,.0f}",
        "" if result.mfu is None else f"{result.mfu:.1%}",
        "" if result.first_step_s is None else f"{result.first_step_s:.1f}",
        f"{result.peak_bytes / 1e9:.1f}" if result.peak_bytes else "",
        "; ".join([*kernel_shares(result), *result.notes]),
    ]


def kernel_shares(result: Result) -> Iterator[str]:
    """For each kind of kernel its share in the time of a step, and its microseconds per 1,000 real tokens."""
    if not result.kernels:
        return
    step_us = 1e6 / median(result.speeds) * result.profiled_tokens  # of all profiled steps, as fast as without the profile
    times = by_kind(result.kernels)
    times["idle"] = max(0.0, step_us - sum(times.values()))
    shares = [f"{kind} {us / step_us:.0%} ({1e3 * us / result.profiled_tokens:.0f})" for kind, us in times.items()]
    yield f"{step_us / PROFILED_STEPS / 1e3:.1f} ms a step: {', '.join(shares)}"


def verdicts(speeds: Mapping[str, float]) -> Iterator[str]:
    """What was reached, of the lines that were measured."""
    for name, other, target in TARGETS:
        if name not in speeds or (other != "tokens/s" and other not in speeds):
            continue
        if other == "tokens/s":
            yield f"{name}: {speeds[name]:,.0f} real tokens/s, target {target:,.0f}: {met(speeds[name] >= target)}"
        else:
            ratio = speeds[name] / speeds[str(other)]
            yield f"{name} : {other}: {ratio:.2f}, target {target:g}: {met(ratio >= target)}"


def measure(lines: Sequence[Line], place: Place, end: float, shows_kernels: bool) -> dict[str, float]:
    """Measures and prints line after line until the time is over. Returns the speeds. Raises LostDeviceError."""
    speeds: dict[str, float] = {}
    for number, line in enumerate(lines):
        if time.monotonic() > end:
            print(f"\nleft out, because the time is over: {', '.join(rest.name for rest in lines[number:])}", flush=True)
            break
        say(line.name)
        try:
            with clean_device(line, place.device):
                result = MEASURES[line.how](line, place)
            speeds[line.name] = median(result.speeds)
            print(row(cells_of(line, result)), flush=True)
            if shows_kernels:
                print_kernels(line, result)
        except Exception as error:  # of any kind: the other lines are measured all the same
            reason = " ".join(str(error).split())[:200]
            print(row([line.name, *[""] * 5, f"failed: {type(error).__name__}: {reason}"]), flush=True)
            if is_lost(place.device):
                raise LostDeviceError(lines[number + 1 :]) from error
    return speeds


def print_kernels(line: Line, result: Result) -> None:
    """The largest kernels of each kind, for whoever mends the patterns of `benchmarks/kernels.py`."""
    for kind in KINDS:
        for name, us in largest(result.kernels, kind, 5):
            say(f"{line.name}, {kind}: {us / PROFILED_STEPS / 1e3:.2f} ms a step, {name[:150]}")


def chosen(arguments: argparse.Namespace) -> list[Line]:
    """The lines of `--only` and `--quick`, with `--model` and `--rows` in place of their own."""
    patterns = arguments.only.split(",") if arguments.only else ["*"]
    lines = [line for line in LINES if line.is_quick or not arguments.quick]
    lines = [line for line in lines if any(fnmatchcase(line.name, pattern) for pattern in patterns)]
    if arguments.model:
        lines = [replace(line, model=arguments.model) for line in lines]
    if arguments.rows:
        lines = [replace(line, rows=max(1, line.rows * arguments.rows // 128)) for line in lines]
    return lines


def machine(device: torch.device) -> str:
    """What it is measured on, and with which versions."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    cuda = f", CUDA {torch.version.cuda}" if device.type == "cuda" else ""
    return f"{date.today()}, {card}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}{cuda}."


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Measures training on one GPU.")
    parser.add_argument("--quick", action="store_true", help="only the defaults, and transformers' model at 128 tokens")
    parser.add_argument("--only", default="", metavar="LINE,...", help="only these lines; * and ? are allowed in a name")
    parser.add_argument("--list", action="store_true", help="print the names of the lines, and end")
    parser.add_argument(
        "--minutes", type=float, help=f"start no line after N minutes (default: {MINUTES:g}, quick: {QUICK_MINUTES:g})"
    )
    parser.add_argument("--steps", type=int, default=10, help="steps of an interval (default: 10)")
    parser.add_argument("--model", default="", help="a size for all lines, in place of their own")
    parser.add_argument("--rows", type=int, default=0, help="rows of a micro-batch, where a line has 128 (default: 128)")
    parser.add_argument("--vocab-size", type=int, default=VOCAB_SIZE, help=f"entries of the vocabulary (default: {VOCAB_SIZE})")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: to try the benchmark itself")
    parser.add_argument("--kernels", action="store_true", help="print the largest kernels of each profile to standard error")
    parser.add_argument("--scratch", help="folder for data and caches (default: the system's temporary one)")
    arguments = parser.parse_args(argv)
    if arguments.steps < 1 or arguments.rows < 0:
        parser.error("--steps must be positive, --rows not negative")
    if not arguments.list and not chosen(arguments):
        parser.error(f"--only {arguments.only} names no line; --list prints them")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Makes the data, measures, prints. Raises LostDeviceError."""
    device = torch.device(arguments.device, 0) if arguments.device == "cuda" else torch.device("cpu")
    end = time.monotonic() + 60 * (arguments.minutes or (QUICK_MINUTES if arguments.quick else MINUTES))
    lines = chosen(arguments)
    with own_folder(arguments.scratch) as folder:
        # Empty caches, so that the first compilation takes what it takes a user.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
        os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
        num_rows = max(DATA_ROWS * (arguments.rows or 128) // 128, 8)
        data = {}
        for longest in sorted({line.longest for line in lines}):
            say(f"writing {num_rows} rows with sequences of at most {longest} tokens")
            url = folder_of(folder, longest)
            data[longest] = url, write_data_set(url, num_rows, longest, arguments.vocab_size)
        print(machine(device))
        for longest, (_, manifest) in data.items():
            totals = manifest.splits["train"].totals()
            print(
                f"Sequences of at most {longest}: {totals['tokens'] / totals['sequences']:.0f} tokens on average; padded to "
                f"{longest}, {padding_share(manifest, longest):.0%} of the places are padding."
            )
        print(f"\n{row(COLUMNS)}\n{row(['-' * max(3, width) for width in _WIDTHS])}", flush=True)
        speeds = measure(lines, Place(device, data, folder, arguments.steps), end, arguments.kernels)
    print("\n".join(["", *verdicts(speeds)]))


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints. After an error that leaves the device unusable, a new process measures the lines that are left."""
    arguments = parse(argv)
    if arguments.list:
        print("\n".join(line.name for line in LINES))
        return
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("benchmarks.gpu: torch finds no CUDA device here; --device cpu tries the benchmark itself")
    quiet()
    try:
        run(arguments)
    except LostDeviceError as error:
        if error.rest:
            say("the device was lost; the lines that are left run in a new process")
            words = [word for word in (argv if argv is not None else sys.argv[1:]) if not word.startswith("--only")]
            names = ",".join(line.name for line in error.rest)
            os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu", *words, f"--only={names}"])


if __name__ == "__main__":
    main()

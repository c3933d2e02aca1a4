"""How far a stage is, over all workers: a bar on a terminal, plain lines elsewhere.

A worker writes the progress of its task into a small file of its own, without locks, so a killed worker harms no other.
The parent adds the progress of unfinished tasks to the sum of the finished ones.
"""

import os
import struct
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shards.command.console import say
from shards.command.numbers import clock, short

if TYPE_CHECKING:  # a worker has no display
    from rich import progress as bars
    from rich.console import Console

_RECORD = struct.Struct("<6q")  # stage, task, and the four amounts of Progress
_PLAIN_EVERY_S = 10.0
_folder: Path | None = None


@dataclass(frozen=True)
class Progress:
    """Amounts done. `done` is in the stage's own measure of work, whose total is known before."""

    done: int = 0
    bytes: int = 0
    documents: int = 0
    tokens: int = 0

    def __add__(self, other: "Progress") -> "Progress":
        return Progress(
            self.done + other.done,
            self.bytes + other.bytes,
            self.documents + other.documents,
            self.tokens + other.tokens,
        )


def save_into(folder: str) -> None:
    """In a worker: sets the folder that `save_progress` writes to."""
    global _folder
    _folder = Path(folder)


def save_progress(stage: int, task: int, progress: Progress) -> None:
    """In a worker: saves how far its current task is, for the display."""
    if _folder is not None:
        record = _RECORD.pack(stage, task, progress.done, progress.bytes, progress.documents, progress.tokens)
        with suppress(OSError), open(_folder / str(os.getpid()), "wb", buffering=0) as file:
            file.write(record)  # a full disk there affects the display only


class StageDisplay:
    """The parent's side: call `finish` for each task that is done and `show` often; it draws now and then."""

    def __init__(
        self,
        name: str,
        number: int,
        total: int,
        folder: str | None,
        bytes_per_done: float = 0.0,
        console: "Console | None" = None,
    ) -> None:
        """`folder`: where workers save their progress, or None. `bytes_per_done`: bytes of text per unit of work, for a stage
        whose tasks do not count bytes.
        """
        self._name, self._number, self._total, self._folder = name, number, total, folder
        self._bytes_per_done = bytes_per_done
        self._started = self._shown = time.monotonic()
        self._finished: set[int] = set()
        self._sum = Progress()
        self._kept = Progress()  # from an earlier run: no part of this run's speed
        self._bar: bars.Progress | None = None
        self._row: bars.TaskID | None = None
        if console is not None or sys.stderr.isatty():
            self._draw(console)

    def _draw(self, console: "Console | None") -> None:
        """Begins the bar, if the console is a terminal. rich is imported here only: it takes as long as a small build."""
        from rich import progress as bars
        from rich.console import Console

        console = console or Console(stderr=True)
        if console.is_terminal:
            columns = (
                bars.TextColumn("{task.description}{task.percentage:4.0f}%"),
                bars.BarColumn(8),
                bars.TextColumn("{task.fields[facts]}"),
            )
            self._bar = bars.Progress(*columns, console=console, refresh_per_second=5)
            self._row = self._bar.add_task(self._name, total=self._total, facts="")
            self._bar.start()

    def finish(self, task: int, progress: Progress, was_done: bool) -> None:
        """Counts a finished task; `was_done`: an earlier run did it."""
        self._kept += progress if was_done else Progress()
        self._finished.add(task)
        self._sum += progress

    def show(self, force: bool = False) -> None:
        """Draws the state; without a terminal prints a line every few seconds."""
        if self._bar is not None and self._row is not None:
            now = self._now()
            self._bar.update(self._row, completed=min(now.done, self._total), facts=self._facts(now))
        elif force or time.monotonic() - self._shown >= _PLAIN_EVERY_S:
            self._shown = time.monotonic()
            now = self._now()
            fraction = min(1.0, now.done / self._total) if self._total else 1.0
            say(f"{self._name}{fraction:5.0%} {self._facts(now)}")

    def close(self) -> None:
        """Draws the last state and leaves it there."""
        self.show(force=True)
        if self._bar is not None:
            self._bar.stop()

    def _now(self) -> Progress:
        unfinished: dict[int, Progress] = {}
        for path in Path(self._folder).iterdir() if self._folder else ():
            record = path.read_bytes()
            if len(record) == _RECORD.size:
                stage, task, *amounts = _RECORD.unpack(record)
                if stage == self._number and task not in self._finished:
                    # A task whose worker was killed has a second file once it is tried again: the further one counts.
                    unfinished[task] = max(Progress(*amounts), unfinished.get(task, Progress()), key=lambda each: each.done)
        return sum(unfinished.values(), self._sum)

    def _facts(self, now: Progress) -> str:
        elapsed = max(1e-3, time.monotonic() - self._started)
        fresh_done, fresh_bytes = now.done - self._kept.done, now.bytes - self._kept.bytes
        fresh_bytes += int(fresh_done * self._bytes_per_done)
        if fresh_done <= 0 and now.done >= self._total:
            return f"kept from an earlier run, {short(now.documents)} documents, {short(now.tokens)} tokens"
        left = elapsed * max(0, self._total - now.done) / fresh_done if fresh_done > 0 else None
        parts = [
            f"{fresh_bytes / elapsed / 1e6:.1f} MB/s",
            f"{clock(left)} left" if left else f"{clock(elapsed)} elapsed",
            f"{short(now.documents)} documents",
            f"{short(now.tokens)} tokens",
        ]
        return ", ".join(parts)

"""What a run reports: metrics.jsonl, TensorBoard where it is installed, Weights & Biases with `--wandb`, and progress.

    loop -> Reporter.log -> MetricsFile, TensorBoard, Weights & Biases, progress bar

Only rank 0 reports. A line of metrics.jsonl is an object with `kind`: start, train, eval, stop or end.
"""

import importlib.util
import json
import math
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from shards import storage
from shards.command.console import say
from shards.command.numbers import clock, short
from shards.errors import UserError
from shards.manifest import fingerprint
from shards.storage.redaction import redacted
from train.history import METRICS_NAME
from train.run import Run

_PLAIN_EVERY_S = 5.0  # without a progress bar: at most one line in this time
_SILENT_S = 15.0  # and at least one, where no line of metrics is due


class MetricsFile:
    """metrics.jsonl of a run. Lines of steps that a restart repeats are removed first. A disk has each line at once."""

    def __init__(self, out: str, first_step: int) -> None:
        """`first_step`: the number of steps already done; lines of later steps are removed."""
        self._url = storage.join(out, METRICS_NAME)
        old = storage.read_bytes(self._url).splitlines() if storage.find(self._url) else []
        self._lines = [line for line in old if _is_before(line, first_step)]
        self._kept = [json.loads(line) for line in self._lines]
        self._file: IO[bytes] | None = None
        self.publish()
        if storage.is_local(out):
            with storage.translated(self._url, "write"):
                self._file = open(storage.local_path(self._url), "ab", buffering=0)  # noqa: SIM115  # open for the run
            self._lines.clear()

    def kept(self, kind: str, step: int) -> list[dict[str, Any]]:
        """The lines of a step that the file had when it was opened."""
        return [line for line in self._kept if (line["kind"], line["step"]) == (kind, step)]

    def add(self, values: Mapping[str, Any]) -> None:
        """Appends one line. An unknown value is None."""
        line = json.dumps(values).encode()
        if self._file is None:
            self._lines.append(line)
            return
        with storage.translated(self._url, "write"):
            self._file.write(line + b"\n")

    def publish(self) -> None:
        """Writes the whole file where lines cannot be appended, as in a bucket."""
        if self._file is None:
            storage.publish(self._url, b"".join(line + b"\n" for line in self._lines))

    def close(self) -> None:
        """Writes the last lines."""
        self.publish()
        if self._file is not None:
            self._file.close()


def _is_before(line: bytes, first_step: int) -> bool:
    try:
        value = json.loads(line)
        return isinstance(value["kind"], str) and int(value["step"]) <= first_step and first_step > 0
    except (ValueError, KeyError, TypeError):  # the half line of a process that was killed
        return False


class Board:
    """TensorBoard's file of a run. Written at once: errors of the package's own writer are lost in its thread."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """`first_step`: the number of steps already done; TensorBoard drops values of later steps. Raises StorageError."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._folder = folder
        self._event: Any = Event
        with storage.translated(str(folder), "write"):
            folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
            self._writer: Any = RecordWriter(open(folder / name, "xb", buffering=0))  # noqa: SIM115  # open for the run
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._write(Event(wall_time=time.time(), step=first_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Adds the values of a step. Raises StorageError."""
        from torch.utils.tensorboard.summary import scalar

        for name, value in values.items():
            self._write(self._event(wall_time=time.time(), step=step, summary=scalar(name, value)))  # type: ignore[no-untyped-call]

    def _write(self, event: Any) -> None:
        with storage.translated(str(self._folder), "write"):
            self._writer.write(event.SerializeToString())

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


class Reporter:
    """Reports for rank 0. On the other ranks it does nothing."""

    def __init__(self, run: Run) -> None:
        """Writes the line of kind `start`."""
        out, first_step, num_steps = run.settings.out, run.start.step, run.num_steps
        self._reports, self._first_step, self._num_steps = run.ranks.rank == 0, first_step, num_steps
        self._out, self._started = out, time.monotonic()
        self._shown = time.monotonic() - _PLAIN_EVERY_S
        self._board: Board | None = None
        self._wandb: Any = None
        self._bar: Progress | None = None
        self._sources = [source.name for source in run.sources]
        self._run = run
        if not self._reports:
            return
        self._file = MetricsFile(out, first_step)
        if storage.is_local(out) and importlib.util.find_spec("tensorboard"):
            self._board = Board(storage.local_path(out) / "tensorboard", first_step)
        if run.settings.wandb:
            self._wandb = _wandb_run(run.settings.wandb, out, run.record())
        console = Console(stderr=True)
        if console.is_terminal:
            columns = (TextColumn("{task.percentage:3.0f}%"), BarColumn(10), TextColumn("{task.fields[facts]}"))
            self._bar = Progress(*columns, console=console, refresh_per_second=4)
            self._row = self._bar.add_task("train", total=num_steps, completed=first_step, facts="")
        start: dict[str, int | str] = {"steps": num_steps, "world_size": run.ranks.world_size, "device": str(run.ranks.device)}
        start |= {"compiled": run.how, "attention": run.layout, "micro_batch": run.settings.micro_batch}
        self.log("start", first_step, start)
        if self._bar is not None:
            self._bar.start()

    def say(self, line: str) -> None:
        """Prints a line for the user."""
        if self._bar is not None:
            self._bar.console.print(redacted(line), markup=False, highlight=False, soft_wrap=True)
        elif self._reports:
            say(line)

    def log(self, kind: str, step: int, values: Mapping[str, float | int | str | None]) -> None:
        """Writes one line of metrics, and for `train` shows the progress."""
        if not self._reports:
            return
        phase = {"phase": self._run.phase.number} if len(self._run.phases) > 1 else {}
        values = finite({**values, **phase})
        self._file.add({"kind": kind, "step": step, "time": round(time.time(), 3), **values})
        prefix = f"{kind}/{values['data']}" if "data" in values else kind
        numbers = {f"{prefix}/{name}": value for name, value in values.items() if isinstance(value, int | float)}
        if self._board is not None:
            try:
                self._board.add(numbers, step)
            except storage.StorageError as error:  # it only shows what metrics.jsonl has
                self.say(f"warning: no more lines for TensorBoard: {error}")
                self._board.close()
                self._board = None
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)
        if kind == "train":
            self._show(step, values)

    def scored(self, step: int) -> list[str]:
        """The data sets whose scores at a step were reported by an earlier start."""
        return [str(line.get("data", self._sources[0])) for line in self._file.kept("eval", step)] if self._reports else []

    def log_scores(self, step: int, source: str, values: Mapping[str, float | None]) -> None:
        """Writes the scores of a data set."""
        self.log("eval", step, {"data": source, **values} if len(self._sources) > 1 else values)

    def show_step(self, step: int) -> None:
        """Shows that a step is done, where no line of metrics has shown it for a while."""
        if self._bar is not None:
            self._bar.update(self._row, completed=step)
        elif self._reports and time.monotonic() - self._shown >= _SILENT_S:
            self._shown = time.monotonic()
            say(f"{step / self._num_steps:4.0%} {step}/{self._num_steps}")

    def _show(self, step: int, values: Mapping[str, Any]) -> None:
        mfu = f"{values['mfu']:.1%}" if values["mfu"] is not None else "n/a"
        left = (time.monotonic() - self._started) / max(1, step - self._first_step) * (self._num_steps - step)
        facts = [
            f"{step}/{self._num_steps}",
            "loss {} = {} + {}".format(*(_number(values[name]) for name in ("loss", "mlm_loss", "nsp_loss"))),
            f"lr {values['lr']:.1e}",
            f"{short(values['tokens_per_s'])}tok/s",
            f"pad {values['padding_share']:.1%}",
            f"wait {values['data_wait_share']:.1%}",
            f"mfu {mfu}",
            f"{clock(left)} left",
        ]
        if "cache_hits" in values:
            facts.insert(-2, f"cache {values['cache_hits'] / max(1, values['cache_hits'] + values['cache_misses']):.0%}")
        if self._bar is not None:
            self._bar.update(self._row, completed=step, facts="\n".join((" ".join(facts[:3]), ", ".join(facts[3:]))))
        elif time.monotonic() - self._shown >= _PLAIN_EVERY_S or step == self._num_steps:
            self._shown = time.monotonic()
            say(f"{step / self._num_steps:4.0%} {', '.join(facts)}")

    def checkpointed(self) -> None:
        """Called when a checkpoint is being written: in a bucket the metrics are written with it."""
        if self._reports:
            self._file.publish()

    def close(self) -> None:
        """Closes the display and the files."""
        if self._bar is not None:
            self._bar.stop()
        if self._reports:
            self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, with None for each number that is not finite: JSON cannot express it."""
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3f}"


def _wandb_run(project: str, out: str, settings: Mapping[str, Any]) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError(f"--wandb {project}: the package is missing; install the extra: pip install '.[wandb]'") from error
    name = fingerprint(storage.absolute(out))[:16]
    folder = str(storage.local_path(out)) if storage.is_local(out) else None
    try:
        return wandb.init(project=project, dir=folder, config=dict(settings), id=name, resume="allow")
    except Exception as error:  # the library raises errors of its own
        raise UserError(
            f"--wandb {project}: cannot be started ({error}); WANDB_MODE=offline works without an account"
        ) from error

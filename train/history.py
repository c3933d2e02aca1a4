"""What a run reported, read back from its folder: metrics.jsonl and, where it is there, run.json. Needs no torch."""

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from shards import storage
from shards.errors import UserError

METRICS_NAME = "metrics.jsonl"
RUN_NAME = "run.json"
_WORDS = ("kind", "device")


@dataclass(frozen=True)
class History:
    """The lines of a run by kind, in order."""

    url: str
    settings: dict[str, Any]
    starts: Sequence[dict[str, Any]]
    train: Sequence[dict[str, Any]]
    evals: Sequence[dict[str, Any]]
    ending: str  # end, stop, or "" where there is neither: at work, or killed
    busy_s: float
    unreadable: int

    @property
    def done(self) -> int:
        """The last step of which anything is known."""
        return max(int(line["step"]) for line in (*self.train, *self.evals))

    @property
    def num_steps(self) -> int:
        """Steps of the whole run, as its last start had them."""
        return int(self.starts[-1].get("steps") or self.done) if self.starts else self.done

    @property
    def restarts(self) -> Sequence[dict[str, Any]]:
        """All starts but the first."""
        return self.starts[1:]

    def steady(self) -> Iterator[dict[str, Any]]:
        """Lines of training without the first after each start, in which a run warms up."""
        begun = {int(line["step"]) for line in self.starts}
        before: int = -1
        for line in self.train:
            if not any(before <= step < int(line["step"]) for step in begun) or len(self.train) <= len(begun):
                yield line
            before = int(line["step"])


_MOST = 1e30
"""Larger numbers are none of a run's: they would overflow where they are drawn."""


def read_history(url: str) -> History:
    """Raises UserError when there is no run at `url`, or none that has reported a step."""
    metrics = storage.join(url, METRICS_NAME)
    settings_url = storage.join(url, RUN_NAME)
    has_settings = bool(url) and storage.find(settings_url) is not None
    if not url or not storage.find(metrics):
        hint = f"its run has no {METRICS_NAME} yet; wait for its first step" if has_settings else "check the path"
        raise UserError(f"{url or repr(url)}: is no run that has reported anything (no {METRICS_NAME}); {hint}")
    parsed = [_parse(line) for line in storage.read_bytes(metrics).splitlines()]
    lines = [line for line in parsed if line is not None]
    starts, train, evals = ([line for line in lines if line["kind"] == kind] for kind in ("start", "train", "eval"))
    if not train:
        raise UserError(f"{metrics}: has no step yet; a line comes every --log-every steps: wait for the first")
    last = lines[-1]["kind"]
    ending = last if last in ("end", "stop") else ""
    settings = _settings(settings_url) if has_settings else {}
    return History(url, settings, starts, train, evals, ending, _busy(lines), len(parsed) - len(lines))


def _parse(line: bytes) -> dict[str, Any] | None:
    """A line's values, None for those that are no finite number; None for the half line of a process that was killed."""
    try:
        value = json.loads(line)
        if not isinstance(value["kind"], str) or not isinstance(value["step"], int) or not 0 <= value["step"] < 2**63:
            return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return {name: v if name in _WORDS or _is_number(v) else None for name, v in value.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST


def _settings(url: str) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = json.loads(storage.read_bytes(url))["settings"]
        return {**settings}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{url}: is damaged ({error!r}); remove it to see the report without the settings") from error


def _busy(lines: Sequence[dict[str, Any]]) -> float:
    """Seconds of all starts together, each to its last line."""
    busy, before = 0.0, None
    for line in lines:
        now = line.get("time")
        if not isinstance(now, int | float):
            continue
        if before is not None and line["kind"] != "start":
            busy += max(0.0, now - before)
        before = now
    return busy


def median(run: History, field: str) -> float | None:
    """Of the lines of training behind the warm-up of each start; None where no line has the field."""
    known = [float(line[field]) for line in run.steady() if line.get(field) is not None]
    return statistics.median(known) if known else None

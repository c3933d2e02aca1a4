"""What a run reported, read back from its folder: `metrics.jsonl` and, if it exists, `run.json`. Needs no torch."""

import json
import statistics
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from shards import storage
from shards.errors import UserError
from shards.memory import require_memory

METRICS_NAME = "metrics.jsonl"
RUN_NAME = "run.json"
_TEXT_FIELDS = ("kind", "device", "data")
# No value of a run is larger. A larger one would overflow where it is drawn, so it counts as "no finite number".
_MAX_VALUE = 1e30
_PARSED_BYTES = 12  # memory per byte of metrics


@dataclass(frozen=True)
class History:
    """The lines of a run by kind, in order."""

    url: str
    settings: dict[str, Any]
    starts: Sequence[dict[str, Any]]
    train: Sequence[dict[str, Any]]
    evals: Sequence[dict[str, Any]]
    ending: str  # "end", "stop", or "" if the last line is neither: the run is at work, or was killed
    busy_s: float
    unreadable: int

    @property
    def done(self) -> int:
        """The last step that any line reports."""
        return max(int(line["step"]) for line in (*self.train, *self.evals))

    @property
    def num_steps(self) -> int:
        """Steps of the whole run, as its last start reported them; at least 1."""
        planned = self.starts[-1].get("steps") if self.starts else None
        return max(1, int(planned or self.done))

    @property
    def evals_by_data(self) -> dict[str, list[dict[str, Any]]]:
        """The scores of each data set by its name, which is empty in a run of one."""
        by_data: dict[str, list[dict[str, Any]]] = {}
        for line in self.evals:
            by_data.setdefault(str(line.get("data") or ""), []).append(line)
        return by_data

    @property
    def phase_starts(self) -> list[tuple[int, int]]:
        """(number, first step) of each phase after the first that has begun."""
        starts = []
        for before, line in pairwise(self.train):
            if (line.get("phase") or 1) > (before.get("phase") or 1):
                starts.append((int(line["phase"]), int(before["step"])))
        return starts

    @property
    def restarts(self) -> Sequence[dict[str, Any]]:
        """All starts but the first."""
        return self.starts[1:]

    def steady(self) -> Iterator[dict[str, Any]]:
        """Training lines without the first after each start, during which a run warms up."""
        begun = sorted({int(line["step"]) for line in self.starts})
        before: int = -1
        for line in self.train:
            is_first = bisect_left(begun, before) < bisect_left(begun, int(line["step"]))
            if not is_first or len(self.train) <= len(begun):
                yield line
            before = int(line["step"])


def read_history(url: str) -> History:
    """Reads a run. Raises UserError if there is no run at `url`, or if it has not reported a step yet."""
    metrics = storage.join(url, METRICS_NAME)
    settings_url = storage.join(url, RUN_NAME)
    has_settings = bool(url) and storage.find(settings_url) is not None
    info = storage.find(metrics) if url else None
    if info is None:
        hint = f"the run has no {METRICS_NAME} yet; wait for its first step" if has_settings else "check the path"
        raise UserError(f"{url or repr(url)}: no run has reported anything here (no {METRICS_NAME}); {hint}")
    require_memory(_PARSED_BYTES * info.bytes, f"{metrics}: reading it", "use a machine with more memory")
    values = [_parse(line) for line in storage.read_bytes(metrics).splitlines()]
    lines = [line for line in values if line is not None]
    starts, train, evals = ([line for line in lines if line["kind"] == kind] for kind in ("start", "train", "eval"))
    if not train:
        raise UserError(f"{metrics}: has no step yet; the run writes a line every --log-every steps: wait for the first")
    last = lines[-1]["kind"]
    ending = last if last in ("end", "stop") else ""
    settings = _settings(settings_url) if has_settings else {}
    return History(url, settings, starts, train, evals, ending, _busy(lines), len(values) - len(lines))


def _parse(line: bytes) -> dict[str, Any] | None:
    """The values of a line, None for each that is not a finite number; None for a line that is no report.

    The last line before a kill may be half written.
    """
    try:
        value = json.loads(line)
        kind, step = value["kind"], value["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(kind, str) or not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 2**63:
        return None
    return {name: v if name in _TEXT_FIELDS or _is_number(v) else None for name, v in value.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MAX_VALUE


def _settings(url: str) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = json.loads(storage.read_small(url))["settings"]
        return {**settings}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{url}: is damaged ({error!r}); remove it to see the report without the settings") from error


def _busy(lines: Sequence[dict[str, Any]]) -> float:
    """Seconds of all starts together. A start lasts to its last line; the time until the next start does not count."""
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
    """The median of a field over `steady` training lines; None if no line has the field."""
    values = [float(line[field]) for line in run.steady() if line.get(field) is not None]
    return statistics.median(values) if values else None

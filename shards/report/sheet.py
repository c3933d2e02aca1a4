"""What a report contains, before it is drawn.

`prep report` and `train.report` fill a `Sheet`. `terminal` prints it and `html` makes a page of it. A sheet is not part of the
data set's format: it is in this package because both commands need it and neither may import the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

from shards.command.console import printable
from shards.command.numbers import short

# Free room above and below the curves of a chart, as a share of its vertical axis.
_ROOM = 0.05

FormatNumber = Callable[[float], str]
Look = Literal["", "strong", "dim", "a", "b", "masked", "next", "not-next"]


@dataclass(frozen=True)
class Finding:
    """Something that looks wrong, and what to do about it."""

    problem: str
    remedy: str


@dataclass(frozen=True)
class Fact:
    """A named value; `note` explains it or gives the value to compare it with."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """One bar: its label, its length, and the text at its end."""

    label: str
    length: float
    text: str


@dataclass(frozen=True)
class Bars:
    """Bars below each other, none of them negative.

    The bars of a `histogram` may be drawn as columns: their labels are ranges `LOW-HIGH` of the quantity that `axis` names.
    """

    title: str
    bars: Sequence[Bar]
    histogram: bool = False
    axis: str = ""


@dataclass(frozen=True)
class Interval:
    """A measured share, its confidence interval, and the share that the settings give."""

    label: str
    share: float
    low: float
    high: float
    target: float


@dataclass(frozen=True)
class Intervals:
    """How far shares are from their targets, in percentage points. All use one scale with the target in the middle."""

    title: str
    intervals: Sequence[Interval]

    def reach(self) -> float:
        """Distance from the middle of the scale to its end."""
        return max((max(abs(i.low - i.target), abs(i.high - i.target)) for i in self.intervals), default=0.0) * 1.1 or 0.01


@dataclass(frozen=True)
class Line:
    """A curve over steps; a None is a gap. Lines of one `group` share a colour; a `dotted` line has its points marked."""

    name: str
    xs: Sequence[int]
    ys: Sequence[float | None]
    group: int = 0
    dotted: bool = False


@dataclass(frozen=True)
class Mark:
    """An event at a step, in the colour of its `group`."""

    step: int
    event: str
    group: int = 0


@dataclass(frozen=True)
class Lines:
    """Curves over one another, from step 0 to `last`.

    The vertical axis begins at 0 if `from_zero`. It ends at `high` if that is set; curves above it are cut off.
    """

    title: str
    lines: Sequence[Line]
    format_number: FormatNumber
    last: int
    from_zero: bool = False
    high: float | None = None
    marks: Sequence[Mark] = ()


@dataclass(frozen=True)
class Span:
    """A piece of text with one look."""

    text: str
    look: Look = ""


@dataclass(frozen=True)
class Passage:
    """Text of a corpus: a headline and lines, each with a label before it."""

    headline: Sequence[Span]
    lines: Sequence[tuple[Span, Sequence[Span]]]


Chart = Bars | Intervals | Lines


@dataclass(frozen=True)
class Section:
    """A heading, a sentence or two, and what to show below them."""

    title: str
    text: str = ""
    facts: Sequence[Fact] = ()
    charts: Sequence[Chart] = ()
    passages: Sequence[Passage] = ()
    legend: Sequence[Span] = ()
    wide: bool = False  # as wide as the page


@dataclass(frozen=True)
class Sheet:
    """A whole report. The findings come first."""

    title: str
    place: str
    summary: str
    findings: Sequence[Finding]
    sections: Sequence[Section]
    footnote: str = ""


def printable_sheet(sheet: Sheet) -> Sheet:
    """The sheet with each text on one line: no control characters, no secrets of URLs.

    Texts of a sheet come from corpora, vocabularies and file names. Both outputs call this first: no field is forgotten.
    """
    clean: Sheet = _printable(sheet)
    return clean


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list | tuple):
        return type(value)(_printable(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _printable(getattr(value, field.name)) for field in fields(value)})
    return value


def bounds(chart: Lines) -> tuple[float, float]:
    """The lowest and the highest value on a chart's vertical axis."""
    values = [y for line in chart.lines for y in line.ys if y is not None]
    low = min(values, default=0.0)
    if chart.from_zero:
        low = min(low, 0.0)
    high = max(values, default=1.0) if chart.high is None else chart.high
    room = _ROOM * (high - low) if high > low else abs(low or 1.0) / 2
    return (low if chart.from_zero and high > low else low - room), high + room


def brief(value: float) -> str:
    """1234567 -> 1.2 M, 20000 -> 20 k."""
    return short(value).replace(".0 ", " ")


def ticks(low: float, high: float, max_ticks: int = 5) -> list[float]:
    """At most `max_ticks` round numbers from `low` to `high`: 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    for exponent in range(-18, 19):
        for factor in (1, 2, 5):
            step = factor * 10.0**exponent
            first, last = -(-low // step), high // step
            if last - first + 1 <= max_ticks:
                return [number * step for number in range(int(first), int(last) + 1)]
    return [low, high]

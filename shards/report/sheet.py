"""What a report says, before anybody decides how it looks.

`prep report` and `train.report` fill a `Sheet`; `sheet_terminal` prints it, `sheet_html` makes a page of it. No part of the
format: it is here because both commands show the same kinds of things and neither imports the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shards.command.console import short

_ROOM = 0.05
"""Of a vertical axis, kept free above and below the curves."""
Format = Callable[[float], str]


@dataclass(frozen=True)
class Finding:
    """Something that looks wrong, and what to do about it."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Fact:
    """A value in words; `note` says what it is held against."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """One bar: its label, its length, and what is written at its end."""

    label: str
    value: float
    shown: str


@dataclass(frozen=True)
class Bars:
    """Bars below each other. None may be negative.

    A `histogram` may be drawn as columns side by side: its labels are ranges `LOW-HIGH` of what `axis` names.
    """

    title: str
    bars: Sequence[Bar]
    histogram: bool = False
    axis: str = ""


@dataclass(frozen=True)
class Interval:
    """A share that was counted, how sure that is, and what was asked."""

    label: str
    share: float
    low: float
    high: float
    asked: float


@dataclass(frozen=True)
class Intervals:
    """How far shares lie from what was asked, in percentage points, all on one scale with that in the middle."""

    title: str
    intervals: Sequence[Interval]

    def reach(self) -> float:
        """What lies between the middle and the end of the scale."""
        return max((max(abs(i.low - i.asked), abs(i.high - i.asked)) for i in self.intervals), default=0.0) * 1.1 or 0.01


@dataclass(frozen=True)
class Line:
    """A curve over steps; a None is a gap. Lines of one `group` share a colour; a `dotted` one has its points marked."""

    name: str
    xs: Sequence[int]
    ys: Sequence[float | None]
    group: int = 0
    dotted: bool = False


@dataclass(frozen=True)
class Mark:
    """Something that happened at a step; of the colour of its `group`."""

    step: int
    what: str
    group: int = 0


@dataclass(frozen=True)
class Lines:
    """Curves over one another, from step 0 to `last`.

    The vertical axis begins at 0 where `from_zero`, and ends at `high` where that is given: what lies above is cut off.
    """

    title: str
    lines: Sequence[Line]
    shown: Format
    last: int
    from_zero: bool = False
    high: float | None = None
    marks: Sequence[Mark] = ()


@dataclass(frozen=True)
class Span:
    """A piece of text; `mark` is one of MARKS."""

    text: str
    mark: str = ""


MARKS = ("", "strong", "dim", "a", "b", "masked", "next", "not-next")


@dataclass(frozen=True)
class Passage:
    """Text of a corpus: a headline and lines, each with a label before it."""

    headline: Sequence[Span]
    lines: Sequence[tuple[Span, Sequence[Span]]]


Chart = Bars | Intervals | Lines


@dataclass(frozen=True)
class Section:
    """A heading, a sentence or two, and what is to be seen."""

    title: str
    text: str = ""
    facts: Sequence[Fact] = ()
    charts: Sequence[Chart] = ()
    passages: Sequence[Passage] = ()
    legend: Sequence[Span] = ()
    wide: bool = False  # over the whole page


@dataclass(frozen=True)
class Sheet:
    """A whole report. The findings are said first."""

    title: str
    place: str
    summary: str
    findings: Sequence[Finding]
    sections: Sequence[Section]
    footnote: str = ""


def bounds(chart: Lines) -> tuple[float, float]:
    """The lowest and the highest value that a chart shows."""
    every = [y for line in chart.lines for y in line.ys if y is not None]
    low = 0.0 if chart.from_zero else min(every, default=0.0)
    high = max(every, default=1.0) if chart.high is None else chart.high
    room = _ROOM * (high - low) if high > low else abs(low or 1.0) / 2
    return (low if chart.from_zero and high > low else low - room), high + room


def brief(value: float) -> str:
    """1234567 -> 1.2 M, 20000 -> 20 k."""
    return short(value).replace(".0 ", " ")


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` round numbers from `low` to `high`: 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    for exponent in range(-18, 19):
        for factor in (1, 2, 5):
            step = factor * 10.0**exponent
            first, last = -(-low // step), high // step
            if last - first + 1 <= most:
                return [number * step for number in range(int(first), int(last) + 1)]
    return [low, high]

"""Charts as inline SVG for a page that is read on a phone as well as on a desk.

The SVG is stretched to the width there is and holds shapes only, with strokes that do not stretch. What is written (ticks,
labels, legends) is HTML laid over it by percentages, so that it has the page's own size everywhere.
"""

from collections.abc import Iterator, Sequence
from html import escape

from shards.command.console import printable
from shards.report.sheet import Bars, Chart, Intervals, Line, Lines, bounds, brief, ticks

NUM_COLOURS = 6
_SIZE = 1000.0
_MOST_LABELS = 5
_USED = 0.985
"""Of a plot's width, so that the dot of the last step is whole."""


def text(value: str) -> str:
    """Text of any origin for HTML, on one line: nothing in it is markup, nothing in it is invisible."""
    return escape(printable(value))


def draw(chart: Chart) -> str:
    """The chart as a figure."""
    if isinstance(chart, Lines):
        body = _lines(chart)
    elif isinstance(chart, Intervals):
        body = _intervals(chart)
    elif chart.histogram:
        body = _histogram(chart)
    else:
        body = _bars(chart)
    return f"<figure><figcaption>{text(chart.title)}</figcaption>{''.join(body)}</figure>\n"


def _bars(chart: Bars) -> Iterator[str]:
    longest = max((bar.value for bar in chart.bars), default=0.0) or 1.0
    yield '<div class="bars">'
    for bar in chart.bars:
        width = _number(_SIZE * bar.value / longest)
        yield f'<span class="label">{text(bar.label)}</span>'
        yield f'<svg viewBox="0 0 {_SIZE:.0f} 10" preserveAspectRatio="none" aria-hidden="true">'
        yield f'<rect class="track" width="{_SIZE:.0f}" height="10"/><rect class="s0" width="{width}" height="10"/></svg>'
        yield f'<span class="shown">{text(bar.shown)}</span>'
    yield "</div>"


def _intervals(chart: Intervals) -> Iterator[str]:
    reach = chart.reach()
    yield '<div class="bars">'
    for interval in chart.intervals:
        shown = [value - interval.asked for value in (interval.low, interval.high, interval.share)]
        low, high, middle = (_number(_SIZE / 2 * (1 + value / reach)) for value in shown)
        yield f'<span class="label">{text(interval.label)}</span>'
        yield f'<svg class="tall" viewBox="0 0 {_SIZE:.0f} 10" preserveAspectRatio="none" aria-hidden="true">'
        yield f'<path class="zero" d="M{_SIZE / 2:.0f} 0V10"/><path class="line s0" d="M{low} 5H{high}"/>'
        yield f'<path class="dots s0" d="M{middle} 5h0"/></svg>'
        yield f'<span class="shown">{100 * (interval.share - interval.asked):+.2f}</span>'
    yield "</div>"


def _histogram(chart: Bars) -> Iterator[str]:
    count, highest = len(chart.bars), max((bar.value for bar in chart.bars), default=0.0)
    heights = ticks(0.0, highest or 1.0)
    top = max(highest, heights[-1]) or 1.0
    yield '<div class="plot">' + _svg(chart.title) + _grid(heights, 0.0, top)
    for number, bar in enumerate(chart.bars):
        x, height = _SIZE * (number + 0.06) / count, _SIZE * bar.value / top
        shape = (
            f'x="{_number(x)}" y="{_number(_SIZE - height)}" width="{_number(_SIZE * 0.88 / count)}" height="{_number(height)}"'
        )
        yield f'<rect class="s0" {shape}><title>{text(bar.label)}: {text(bar.shown)}</title></rect>'
    yield "</svg>" + _y_labels([(height, brief(height)) for height in heights], 0.0, top)
    every = -(-count // _MOST_LABELS)
    for number in range(0, count, every):
        yield _x_label(number / count, chart.bars[number].label.partition("-")[0], at_start=True)
    yield f'</div><p class="axis">{text(chart.axis)}</p>'


def _lines(chart: Lines) -> Iterator[str]:
    low, high = bounds(chart)
    heights, steps = ticks(low, high), ticks(0.0, float(max(1, chart.last)), _MOST_LABELS)
    yield '<div class="plot">' + _svg(chart.title) + _grid(heights, low, high)
    for mark in chart.marks:
        x = _number(_SIZE * _along(mark.step, chart))
        yield f'<path class="mark {_colour(mark.group)}" d="M{x} 0V{_SIZE:.0f}"><title>{text(mark.what)}</title></path>'
    for line in chart.lines:
        yield from _curve(line, chart, low, high)
    yield "</svg>" + _y_labels([(height, chart.shown(height)) for height in heights], low, high)
    for step in steps:
        yield _x_label(_along(step, chart), brief(step) if step >= 10_000 else f"{step:.0f}")
    yield '</div><p class="axis">step</p>' + _legend(chart)


def _curve(line: Line, chart: Lines, low: float, high: float) -> Iterator[str]:
    points, pen, dots = [], "M", []
    for step, y in zip(line.xs, line.ys, strict=True):
        if y is None:
            pen = "M"
            continue
        place = f"{_number(_SIZE * _along(step, chart))} {_number(_SIZE - _SIZE * (y - low) / (high - low))}"
        points.append(pen + place)
        dots.append(f"M{place}h0")
        pen = "L"
    kind = f"{_colour(line.group)}{' pale' if not line.dotted and any(other.dotted for other in chart.lines) else ''}"
    yield f'<path class="line {kind}" d="{"".join(points)}"><title>{text(line.name)}</title></path>'
    if line.dotted or len(points) == 1:
        yield f'<path class="dots {_colour(line.group)}" d="{"".join(dots)}"/>'


def _along(step: float, chart: Lines) -> float:
    """Where a step stands, as a share of the plot's width."""
    return _USED * step / max(1, chart.last)


def _legend(chart: Lines) -> str:
    parts = []
    for line in chart.lines:
        known = [y for y in line.ys if y is not None]
        last = f" <b>{text(chart.shown(known[-1]))}</b>" if known else " no number"
        key = "dotted" if line.dotted else "plain"
        parts.append(f'<span class="key"><i class="{key} {_colour(line.group)}"></i>{text(line.name)}{last}</span>')
    if chart.marks:
        what = sorted({mark.what.partition(" at ")[0] for mark in chart.marks})
        parts.append(f'<span class="key"><i class="dash"></i>{text(", ".join(what))}</span>')
    return f'<p class="legend">{"".join(parts)}</p>'


def _svg(title: str) -> str:
    size = f"{_SIZE:.0f}"
    return f'<svg viewBox="0 0 {size} {size}" preserveAspectRatio="none" role="img" aria-label="{text(title)}">'


def _grid(heights: Sequence[float], low: float, high: float) -> str:
    places = (_number(_SIZE - _SIZE * (height - low) / (high - low)) for height in heights)
    return f'<path class="grid" d="{"".join(f"M0 {y}H{_SIZE:.0f}" for y in places)}"/>'


def _y_labels(labels: Sequence[tuple[float, str]], low: float, high: float) -> str:
    places = ((_number(100 * (height - low) / (high - low)), shown) for height, shown in labels)
    return "".join(f'<span class="y" style="bottom:{percent}%">{text(shown)}</span>' for percent, shown in places)


def _x_label(share: float, label: str, at_start: bool = False) -> str:
    kind = "x first" if at_start or share < 0.02 else "x last" if share > 0.96 else "x"
    place = f"right:{_number(100 - 100 * share)}%" if kind == "x last" else f"left:{_number(100 * share)}%"
    return f'<span class="{kind}" style="{place}">{text(label)}</span>'


def _colour(group: int) -> str:
    return f"s{group % NUM_COLOURS}"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")

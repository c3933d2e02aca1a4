"""Charts as inline SVG for a page that is read on a phone as well as on a desk.

The SVG stretches to the available width. It holds shapes only, whose strokes do not stretch. Ticks, labels and legends are
HTML, laid over the SVG by percentages, so that text has the page's own size everywhere.

All markup is made by `Markup(...).format(...)`, which escapes every value that is not markup itself.
"""

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from shards.report.sheet import Bars, Chart, Intervals, Line, Lines, bounds, brief, ticks

NUM_COLOURS = 6
# The side of the square in whose coordinates shapes are drawn.
_SIZE = 1000
_MAX_LABELS = 5
# Share of a plot's width that steps use. The rest leaves room for the dot of the last step.
_USED = 0.985

_FIGURE = Markup("<figure><figcaption>{}</figcaption>{}</figure>\n")
_LABEL = Markup('<span class="label">{}</span>')
_VALUE = Markup('<span class="value">{}</span>')
_STRIP = Markup('<svg class="{}" viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true">{}</svg>')
_PLOT = Markup('<div class="plot"><svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>')
_PATH = Markup('<path class="{}" d="{}"/>')
_TITLED_PATH = Markup('<path class="{}" d="{}"><title>{}</title></path>')
_COLUMN = Markup('<rect class="s0" x="{}" y="{}" width="{}" height="{}"><title>{}: {}</title></rect>')
_Y_LABEL = Markup('<span class="y" style="bottom:{}%">{}</span>')
_X_LABEL = Markup('<span class="{}" style="{}:{}%">{}</span>')
_END = Markup('</div><p class="axis">{}</p>')
_KEY = Markup('<span class="key"><i class="{}"></i>{}{}</span>')


def draw(chart: Chart) -> Markup:
    """The chart as a figure."""
    if isinstance(chart, Lines):
        body = _lines(chart)
    elif isinstance(chart, Intervals):
        body = _intervals(chart)
    elif chart.histogram:
        body = _histogram(chart)
    else:
        body = _bars(chart)
    return _FIGURE.format(chart.title, _join(body))


def _join(parts: Iterator[Markup]) -> Markup:
    return Markup("").join(parts)


def _bars(chart: Bars) -> Iterator[Markup]:
    longest = max((bar.length for bar in chart.bars), default=0.0) or 1.0
    shapes = Markup('<rect class="track" width="1000" height="10"/><rect class="s0" width="{}" height="10"/>')
    yield Markup('<div class="bars">')
    for bar in chart.bars:
        yield _LABEL.format(bar.label)
        yield _STRIP.format("", shapes.format(_number(_SIZE * bar.length / longest)))
        yield _VALUE.format(bar.text)
    yield Markup("</div>")


def _intervals(chart: Intervals) -> Iterator[Markup]:
    reach = chart.reach()
    yield Markup('<div class="bars">')
    for interval in chart.intervals:
        offsets = [value - interval.target for value in (interval.low, interval.high, interval.share)]
        low, high, middle = (_number(_SIZE / 2 * (1 + offset / reach)) for offset in offsets)
        shapes = (
            _PATH.format("zero", f"M{_SIZE // 2} 0V10"),
            _PATH.format("line s0", f"M{low} 5H{high}"),
            _PATH.format("dots s0", f"M{middle} 5h0"),
        )
        yield _LABEL.format(interval.label)
        yield _STRIP.format("tall", Markup("").join(shapes))
        yield _VALUE.format(f"{100 * (interval.share - interval.target):+.2f}")
    yield Markup("</div>")


def _histogram(chart: Bars) -> Iterator[Markup]:
    count, highest = len(chart.bars), max((bar.length for bar in chart.bars), default=0.0)
    heights = ticks(0.0, highest or 1.0)
    top = max(highest, heights[-1]) or 1.0

    def columns() -> Iterator[Markup]:
        yield _grid(heights, 0.0, top)
        for number, bar in enumerate(chart.bars):
            x, height = _SIZE * (number + 0.06) / count, _SIZE * bar.length / top
            place = (x, _SIZE - height, _SIZE * 0.88 / count, height)
            yield _COLUMN.format(*map(_number, place), bar.label, bar.text)

    yield _PLOT.format(chart.title, _join(columns()))
    yield from _y_labels([(height, brief(height)) for height in heights], 0.0, top)
    for number in range(0, count, max(1, -(-count // _MAX_LABELS))):
        yield _x_label(number / count, chart.bars[number].label.partition("-")[0], at_start=True)
    yield _END.format(chart.axis)


def _lines(chart: Lines) -> Iterator[Markup]:
    low, high = bounds(chart)
    heights, steps = ticks(low, high), ticks(0.0, float(max(1, chart.last)), _MAX_LABELS)

    def curves() -> Iterator[Markup]:
        yield _grid(heights, low, high)
        for mark in chart.marks:
            x = _number(_SIZE * _along(mark.step, chart))
            yield _TITLED_PATH.format(f"mark {_colour(mark.group)}", f"M{x} 0V{_SIZE}", mark.event)
        for line in chart.lines:
            yield from _curve(line, chart, low, high)

    yield _PLOT.format(chart.title, _join(curves()))
    yield from _y_labels([(height, chart.format_number(height)) for height in heights], low, high)
    for step in steps:
        yield _x_label(_along(step, chart), brief(step) if step >= 10_000 else f"{step:.0f}")
    yield _END.format("step")
    yield Markup('<p class="legend">{}</p>').format(_join(_keys(chart)))


def _curve(line: Line, chart: Lines, low: float, high: float) -> Iterator[Markup]:
    points, pen, dots = [], "M", []
    for step, y in zip(line.xs, line.ys, strict=True):
        if y is None:
            pen = "M"  # lift the pen: the curve has a gap here
            continue
        place = f"{_number(_SIZE * _along(step, chart))} {_number(_SIZE - _SIZE * (y - low) / (high - low))}"
        points.append(pen + place)
        dots.append(f"M{place}h0")
        pen = "L"
    pale = " pale" if not line.dotted and any(other.dotted for other in chart.lines) else ""
    yield _TITLED_PATH.format(f"line {_colour(line.group)}{pale}", "".join(points), line.name)
    if line.dotted or len(points) == 1:
        yield _PATH.format(f"dots {_colour(line.group)}", "".join(dots))


def _keys(chart: Lines) -> Iterator[Markup]:
    """The legend: each line with its last value, then the kinds of marks."""
    for line in chart.lines:
        numbers = [y for y in line.ys if y is not None]
        last = Markup(" <b>{}</b>").format(chart.format_number(numbers[-1])) if numbers else " no number"
        yield _KEY.format(f"{'dotted' if line.dotted else 'plain'} {_colour(line.group)}", line.name, last)
    if chart.marks:
        yield _KEY.format("dash", ", ".join(sorted({mark.event.partition(" at ")[0] for mark in chart.marks})), "")


def _along(step: float, chart: Lines) -> float:
    """The place of a step, as a share of the plot's width."""
    return _USED * step / max(1, chart.last)


def _grid(heights: Sequence[float], low: float, high: float) -> Markup:
    places = (_number(_SIZE - _SIZE * (height - low) / (high - low)) for height in heights)
    return _PATH.format("grid", "".join(f"M0 {y}H{_SIZE}" for y in places))


def _y_labels(labels: Sequence[tuple[float, str]], low: float, high: float) -> Iterator[Markup]:
    for height, text in labels:
        yield _Y_LABEL.format(_number(100 * (height - low) / (high - low)), text)


def _x_label(share: float, label: str, at_start: bool = False) -> Markup:
    """A label below the plot; near either end it is aligned with that end, so that it stays inside the page."""
    if share > 0.96 and not at_start:
        return _X_LABEL.format("x last", "right", _number(100 - 100 * share), label)
    return _X_LABEL.format("x first" if at_start or share < 0.02 else "x", "left", _number(100 * share), label)


def _colour(group: int) -> str:
    return f"s{group % NUM_COLOURS}"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")

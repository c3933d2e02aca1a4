"""A report in the terminal: readable at 80 columns, in a pipe, in a log, without colours and without Unicode."""

import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from shards.command.console import printable
from shards.report.sheet import (
    Bars,
    Chart,
    Intervals,
    Line,
    Lines,
    Look,
    Passage,
    Section,
    Sheet,
    Span,
    bounds,
    printable_sheet,
)

STYLES: dict[Look, str] = {
    "": "",
    "strong": "bold",
    "dim": "dim",
    "a": "cyan",
    "b": "yellow",
    "masked": "bold red",
    "next": "green",
    "not-next": "magenta",
}
# Widths in character cells.
_BAR_CELLS = 24
_CURVE_CELLS = 40
_LABEL_CELLS = 28
_BLOCKS, _PLAIN_BLOCKS = "▁▂▃▄▅▆▇█", "_.-~=+*#"


def print_sheet(sheet: Sheet) -> None:
    """Print the whole report."""
    console, sheet = terminal(), printable_sheet(sheet)
    console.print(Text(sheet.title, "bold"), Text(sheet.place, "dim"), soft_wrap=True)
    console.print(Text(sheet.summary))
    console.print()
    if not sheet.findings:
        console.print(Text("Nothing looks wrong.", "green"))
    for finding in sheet.findings:
        console.print(Text.assemble(("! ", "bold red"), (finding.problem, "bold"), " ", finding.remedy))
    for section in sheet.sections:
        console.print()
        _print_section(console, section)
    if sheet.footnote:
        console.print()
        console.print(Text(sheet.footnote, "dim"), soft_wrap=True)


def terminal() -> Console:
    """Standard output. A character that its encoding lacks is printed as an escape such as `\\xe9`."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(highlight=False)


def styled(spans: Sequence[Span]) -> Text:
    """Text in colours, without control characters."""
    return Text().join(Text(printable(span.text), STYLES[span.look]) for span in spans)


def passage_lines(passage: Passage) -> Iterator[Text]:
    """The lines of a passage."""
    yield styled(passage.headline)
    for label, spans in passage.lines:
        yield Text().join([Text("  "), styled([label]), styled(spans)])


def print_passage(console: Console, passage: Passage) -> None:
    """Print a passage; long lines are wrapped on a terminal only."""
    for line in passage_lines(passage):
        console.print(line, soft_wrap=not console.is_terminal)


def _print_section(console: Console, section: Section) -> None:
    console.print(Text(section.title, "bold underline"))
    if section.text:
        console.print(Text(section.text, "dim"))
    if section.facts:
        table = Table.grid(padding=(0, 2))
        table.add_column(overflow="fold", max_width=_LABEL_CELLS)
        table.add_column(overflow="fold")
        table.add_column(overflow="fold", style="dim")
        for fact in section.facts:
            table.add_row(Text(fact.name), Text(fact.value), Text(fact.note))
        console.print(Padding(table, (0, 0, 0, 2)))
    for chart in section.charts:
        console.print(Text(f"  {chart.title}", "italic"))
        console.print(Padding(_chart(chart, console.options.ascii_only), (0, 0, 0, 4)))
    if section.legend:
        console.print(styled(section.legend))
    for passage in section.passages:
        console.print()
        print_passage(console, passage)


def _chart(chart: Chart, ascii_only: bool) -> Table:
    if isinstance(chart, Bars):
        return _bars(chart, ascii_only)
    return _intervals(chart, ascii_only) if isinstance(chart, Intervals) else _curves(chart, ascii_only)


def _intervals(chart: Intervals, ascii_only: bool) -> Table:
    dash, dot, middle = "-o|" if ascii_only else "─●│"
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold", max_width=_LABEL_CELLS)
    for interval in chart.intervals:
        low, high, share = (
            round(_BAR_CELLS / 2 * (1 + (value - interval.target) / chart.reach()))
            for value in (interval.low, interval.high, interval.share)
        )
        cells = [dash if low <= cell <= high else " " for cell in range(_BAR_CELLS + 1)]
        cells[_BAR_CELLS // 2] = middle
        cells[share] = dot
        points = Text(f"{100 * (interval.share - interval.target):+.2f}")
        table.add_row(Text(interval.label), Text("".join(cells), "blue"), points)
    return table


def _bars(chart: Bars, ascii_only: bool) -> Table:
    block, trace = ("#", ".") if ascii_only else ("█", "·")
    longest = max((bar.length for bar in chart.bars), default=0.0)
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right" if chart.histogram else "left", overflow="fold", max_width=_LABEL_CELLS)
    table.add_column()
    table.add_column(overflow="fold")
    for bar in chart.bars:
        cells = round(_BAR_CELLS * bar.length / longest) if longest else 0
        # A bar too short for one block gets a trace, so that it differs from zero.
        drawing = block * cells or (trace if bar.length else "")
        table.add_row(Text(bar.label), Text(drawing, "blue"), Text(bar.text))
    return table


def _curves(chart: Lines, ascii_only: bool) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold", max_width=_LABEL_CELLS - 8)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    low, high = bounds(chart)
    arrow = "->" if ascii_only else "→"
    for line in chart.lines:
        numbers = [chart.format_number(y) for y in line.ys if y is not None]
        ends = f"{numbers[0]} {arrow} {numbers[-1]}" if numbers else "no number"
        drawing = _curve(line, chart.last, low, high, _PLAIN_BLOCKS if ascii_only else _BLOCKS)
        table.add_row(Text(line.name), Text(drawing, "blue"), Text(ends))
    return table


def _curve(line: Line, last: int, low: float, high: float, blocks: str) -> str:
    """One character per range of steps, as high as the mean there. A range without points repeats the character before it."""
    cells: dict[int, list[float]] = {}
    for step, y in zip(line.xs, line.ys, strict=True):
        cell = cells.setdefault(min(_CURVE_CELLS - 1, max(0, (step - 1) * _CURVE_CELLS // max(1, last))), [])
        if y is not None:
            cell.append(y)
    top = len(blocks) - 1
    drawing, character = "", " "
    for number in range(max(cells, default=-1) + 1):
        if number in cells:
            values = cells[number]
            # A value above the axis (the first steps' losses) gets the highest block.
            height = round(top * (sum(values) / len(values) - low) / (high - low)) if values else 0
            character = blocks[max(0, min(top, height))] if values else " "
        drawing += character
    return drawing

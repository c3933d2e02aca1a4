"""A report in the terminal: readable at 80 columns, in a pipe, in a log, without colours and without Unicode."""

import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from shards.command.console import printable
from shards.report.sheet import Bars, Chart, Intervals, Lines, Passage, Section, Sheet, Span, bounds

STYLES = {
    "": "",
    "strong": "bold",
    "dim": "dim",
    "a": "cyan",
    "b": "yellow",
    "masked": "bold red",
    "next": "green",
    "not-next": "magenta",
}
_BAR_CELLS = 24
_CURVE_CELLS = 40
_LABEL_CELLS = 28
_BLOCKS, _PLAIN_BLOCKS = "▁▂▃▄▅▆▇█", "_.-~=+*#"


def print_sheet(sheet: Sheet) -> None:
    """Prints the whole report."""
    console = terminal()
    console.print(Text(printable(sheet.title), "bold"), Text(printable(sheet.place), "dim"), soft_wrap=True)
    console.print(Text(printable(sheet.summary)))
    console.print()
    if not sheet.findings:
        console.print(Text("Nothing looks wrong.", "green"))
    for finding in sheet.findings:
        said = Text.assemble(("! ", "bold red"), (printable(finding.what), "bold"), " ", printable(finding.remedy))
        console.print(said)
    for section in sheet.sections:
        console.print()
        _print_section(console, section)
    if sheet.footnote:
        console.print()
        console.print(Text(printable(sheet.footnote), "dim"), soft_wrap=True)


def terminal() -> Console:
    """Standard output; what its encoding lacks is shown by number instead of ending the command."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(highlight=False)


def styled(spans: Sequence[Span]) -> Text:
    """Marked text in colours, without what a terminal would obey."""
    return Text().join(Text(printable(span.text), STYLES[span.mark]) for span in spans)


def passage_lines(passage: Passage) -> Iterator[Text]:
    """A passage, a line of text each."""
    yield styled(passage.headline)
    for label, spans in passage.lines:
        yield Text().join([Text("  "), styled([label]), styled(spans)])


def print_passage(console: Console, passage: Passage) -> None:
    """Prints a passage; long lines are wrapped on a terminal only."""
    for line in passage_lines(passage):
        console.print(line, soft_wrap=not console.is_terminal)


def _print_section(console: Console, section: Section) -> None:
    console.print(Text(printable(section.title), "bold underline"))
    if section.text:
        console.print(Text(printable(section.text), "dim"))
    if section.facts:
        table = Table.grid(padding=(0, 2))
        table.add_column(overflow="fold", max_width=_LABEL_CELLS)
        table.add_column(overflow="fold")
        table.add_column(overflow="fold", style="dim")
        for fact in section.facts:
            table.add_row(*(Text(printable(part)) for part in (fact.name, fact.value, fact.note)))
        console.print(Padding(table, (0, 0, 0, 2)))
    for chart in section.charts:
        console.print(Text(f"  {printable(chart.title)}", "italic"))
        console.print(Padding(_chart(console, chart), (0, 0, 0, 4)))
    if section.legend:
        console.print(styled(section.legend))
    for passage in section.passages:
        console.print()
        print_passage(console, passage)


def _chart(console: Console, chart: Chart) -> Table:
    if isinstance(chart, Bars):
        return _bars(console, chart)
    return _intervals(console, chart) if isinstance(chart, Intervals) else _curves(console, chart)


def _intervals(console: Console, chart: Intervals) -> Table:
    dash, dot, middle = "-o|" if console.options.ascii_only else "─●│"
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold", max_width=_LABEL_CELLS)
    for interval in chart.intervals:
        low, high, share = (
            round(_BAR_CELLS / 2 * (1 + (value - interval.asked) / chart.reach()))
            for value in (interval.low, interval.high, interval.share)
        )
        cells = [dash if low <= cell <= high else " " for cell in range(_BAR_CELLS + 1)]
        cells[_BAR_CELLS // 2] = middle
        cells[share] = dot
        points = Text(f"{100 * (interval.share - interval.asked):+.2f}")
        table.add_row(Text(printable(interval.label)), Text("".join(cells), "blue"), points)
    return table


def _bars(console: Console, chart: Bars) -> Table:
    block, empty = ("#", ".") if console.options.ascii_only else ("█", "·")
    longest = max((bar.value for bar in chart.bars), default=0.0)
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right" if chart.histogram else "left", overflow="fold", max_width=_LABEL_CELLS)
    table.add_column()
    table.add_column(overflow="fold")
    for bar in chart.bars:
        cells = round(_BAR_CELLS * bar.value / longest) if longest else 0
        drawn = Text.assemble((block * cells or (empty if bar.value else ""), "blue"))
        table.add_row(Text(printable(bar.label)), drawn, Text(printable(bar.shown)))
    return table


def _curves(console: Console, chart: Lines) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold", max_width=_LABEL_CELLS - 8)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    low, high = bounds(chart)
    blocks = _PLAIN_BLOCKS if console.options.ascii_only else _BLOCKS
    arrow = "->" if console.options.ascii_only else "→"
    for line in chart.lines:
        known = [y for y in line.ys if y is not None]
        ends = f"{chart.shown(known[0])} {arrow} {chart.shown(known[-1])}" if known else "no number"
        drawn = Text(_curve(line.xs, line.ys, chart.last, low, high, blocks), "blue")
        table.add_row(Text(printable(line.name)), drawn, Text(ends))
    return table


def _curve(xs: Sequence[int], ys: Sequence[float | None], last: int, low: float, high: float, blocks: str) -> str:
    """A character for each stretch of steps: the mean there, as its height; between points that of the one before."""
    cells: dict[int, list[float | None]] = {}
    for x, y in zip(xs, ys, strict=True):
        cells.setdefault(min(_CURVE_CELLS - 1, max(0, (x - 1) * _CURVE_CELLS // max(1, last))), []).append(y)
    scale, top = (len(blocks) - 1) / (high - low), len(blocks) - 1
    drawn, character = "", " "
    for cell in range(max(cells, default=-1) + 1):
        if cell in cells:
            known = [y for y in cells[cell] if y is not None]
            character = blocks[min(top, round((sum(known) / len(known) - low) * scale))] if known else " "
        drawn += character
    return drawn

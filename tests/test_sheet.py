"""The parts of a sheet that both outputs share: bounds, ticks, printable texts."""

import pytest

from shards.report.sheet import (
    Bar,
    Bars,
    Finding,
    Line,
    Lines,
    Mark,
    Passage,
    Section,
    Sheet,
    Span,
    bounds,
    printable_sheet,
    ticks,
)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (6.3, 9.6), (0.0, 2e-4), (-3.0, 17.0), (0.0, 123_456.0), (5.0, 5.0)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 <= len(found) <= 5 and found == sorted(found)
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


def test_a_flat_curve_has_room_around_it() -> None:
    low, high = bounds(Lines("t", [Line("a", [1, 2], [3.0, 3.0])], str, 2))
    assert low < 3.0 < high


@pytest.mark.parametrize("values", [[-1.0], [-1.0, -1.0], [0.0], [-2.0, 5.0], [1e-320, 0.0]])
@pytest.mark.parametrize("from_zero", [False, True])
def test_the_axis_of_a_curve_is_never_empty_and_holds_it(values: list[float], from_zero: bool) -> None:
    low, high = bounds(Lines("t", [Line("a", list(range(len(values))), values)], str, 2, from_zero=from_zero))
    assert low < high and low <= min(values) and max(values) <= high


def sheet_of(text: str) -> Sheet:
    """A sheet that has the text in every place for text."""
    charts = (
        Bars(text, [Bar(text, 1.0, text)], axis=text),
        Lines(text, [Line(text, [1], [2.0])], str, 1, marks=[Mark(1, text)]),
    )
    passage = Passage([Span(text)], [(Span(text), [Span(text, "masked")])])
    sections = [Section(text, text, charts=charts, passages=[passage], legend=[Span(text)])]
    return Sheet(text, text, text, [Finding(text, text)], sections, text)


def test_every_text_of_a_sheet_is_made_printable() -> None:
    assert printable_sheet(sheet_of("\x1b[31mx\ny\u202e")) == sheet_of("\\x1b[31mx y\\u202e")

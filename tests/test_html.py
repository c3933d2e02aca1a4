"""The page: whatever a text says is text, and a file that is no page is not overwritten."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from shards.errors import UserError
from shards.report.html import page, print_and_publish
from shards.report.sheet import Bar, Bars, Fact, Finding, Interval, Intervals, Line, Lines, Mark, Passage, Section, Sheet, Span

HOSTILE = "<img src=x onerror=alert(1)>\"'&"


def sheet_of(text: str) -> Sheet:
    """A sheet that has the text in every place for text."""
    charts = (
        Bars(text, [Bar(text, 1.0, text)]),
        Bars(text, [Bar(text, 1.0, text)], histogram=True, axis=text),
        Intervals(text, [Interval(text, 0.5, 0.4, 0.6, 0.5)]),
        Lines(text, [Line(text, [1, 2], [3.0, None], dotted=True)], lambda value: text, 2, marks=[Mark(1, text)]),
    )
    passage = Passage([Span(text)], [(Span(text, "a"), [Span(text, "masked")])])
    section = Section(text, text, [Fact(text, text, text)], charts, [passage], [Span(text)])
    return Sheet(text, text, text, [Finding(text, text)], [section, replace(section, wide=True)], text)


class Tags(HTMLParser):
    """Tags with their attributes' names, and how often text reads `HOSTILE`."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.texts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.texts += HOSTILE in data


def parse(text: str) -> Tags:
    tags = Tags()
    tags.feed(text)
    return tags


def test_a_text_never_becomes_markup() -> None:
    hostile, plain = parse(page(sheet_of(HOSTILE))), parse(page(sheet_of("plain")))
    assert hostile.tags == plain.tags and hostile.texts > 40
    assert "<" not in page(sheet_of("plain")).replace("<!doctype", "").partition("<style>")[2].partition("</style>")[0]


def test_findings_come_before_everything_else() -> None:
    text = page(Sheet("t", "p", "s", [Finding("problem", "remedy")], [Section("section")]))
    assert text.index("problem") < text.index("section</h2>") and "Nothing looks wrong" not in text
    assert "Nothing looks wrong." in page(Sheet("t", "p", "s", [], []))


def test_a_page_replaces_a_page_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "thesis.html"
    other.write_text("<html>years of work")
    with pytest.raises(UserError, match="exists and is not a page"):
        print_and_publish(sheet_of("x"), str(other))
    assert other.read_text() == "<html>years of work" and capsys.readouterr().out == ""
    for title in ("first", "second"):
        print_and_publish(sheet_of(title), str(tmp_path / "page.html"))
    assert "second" in (tmp_path / "page.html").read_text()

"""A report as one HTML page for any width, light and dark. It has no script and loads nothing (its policy forbids both)."""

from functools import cache
from importlib.resources import files
from itertools import groupby

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from shards import storage
from shards.command.console import printable
from shards.errors import UserError
from shards.report.sheet import Sheet, printable_sheet
from shards.report.svg import draw
from shards.report.terminal import print_sheet

_BEGINNING = b"<!doctype html>"


def print_and_publish(sheet: Sheet, place: str | None) -> None:
    """Prints the report. If `place` is set, first writes its page there.

    Raises UserError when the page cannot be written, or when another file is at `place`.
    """
    if place == "":
        raise UserError("--html is empty; set it to the file to write, such as report.html")
    if place:
        if storage.find(place) and not storage.read_bytes(place).startswith(_BEGINNING):
            raise UserError(f"--html {place}: the file exists and is not a page; choose another name, or remove the file")
        storage.publish(place, page(sheet).encode())
    print_sheet(sheet)
    if place:
        print(printable(f"the page is in {place}"))


def page(sheet: Sheet) -> str:
    """The report as HTML."""
    sheet = printable_sheet(sheet)
    groups = [(wide, list(sections)) for wide, sections in groupby(sheet.sections, lambda section: section.wide)]
    return _template().render(sheet=sheet, groups=groups, css=Markup(_read("page.css")), draw=draw)


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_read("page.html"))


def _read(name: str) -> str:
    return files(__package__ or "shards.report").joinpath(name).read_text(encoding="utf8")

"""A report as one HTML page: no script, nothing from the network (its policy forbids both), for any width, light and dark."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from shards import storage
from shards.command.console import printable
from shards.errors import UserError
from shards.report.sheet import Finding, Passage, Section, Sheet, Span
from shards.report.svg import draw, text
from shards.report.terminal import print_sheet

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #fff; --ink: #1c2128; --soft: #57606a; --rule: #d8dee4; --track: #eceff2;
  --s0: #1f6feb; --s1: #c2410c; --s2: #15803d; --s3: #9333ea; --s4: #0e7490; --s5: #a16207;
  --a: #0b6e75; --b: #8a5500; --masked: #b42318; --masked-page: #fdeceb; --next: #1a7f37; --not-next: #9a3198;
  --bad: #8f1d14; --bad-page: #fdeceb; --good: #14612a; --good-page: #e6f6ea;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0d1117; --card: #161b22; --ink: #e6edf3; --soft: #9da7b3; --rule: #30363d; --track: #262c34;
    --s0: #6cb6ff; --s1: #ff9b63; --s2: #5bd47f; --s3: #c79bff; --s4: #4fd0e0; --s5: #e3b341;
    --a: #6cd0d8; --b: #e3b341; --masked: #ff9a90; --masked-page: #42201e; --next: #57d364; --not-next: #e59be2;
    --bad: #ffb3ab; --bad-page: #42201e; --good: #7ee29a; --good-page: #12301b;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
main { max-width: 72rem; margin: 0 auto; padding: 1.25rem .75rem 2rem; }
h1 { margin: 0; font-size: 1.5rem; line-height: 1.25; }
h2 { margin: 0 0 .25rem; font-size: 1.1rem; }
p { margin: .25rem 0; }
.soft, .place, .axis, figcaption, dt, small, footer { color: var(--soft); }
.place { font-family: ui-monospace, monospace; font-size: .875rem; }
.findings { margin: 1rem 0; padding: .75rem 1rem; border-radius: .6rem; background: var(--good-page); color: var(--good); }
.findings.bad { background: var(--bad-page); color: var(--bad); }
.findings ul { margin: .25rem 0 0; padding-left: 1.2rem; }
.cards { columns: 27rem 2; column-gap: 1rem; }
section + section, .cards + section, section + .cards { margin-top: 1rem; }
section { break-inside: avoid; padding: .9rem 1rem; background: var(--card); border: 1px solid var(--rule);
  border-radius: .6rem; }
dl { margin: .5rem 0 0; }
dl div { break-inside: avoid; display: grid; grid-template-columns: minmax(7rem, 2fr) 3fr; gap: .1rem 1rem; padding: .25rem 0;
  border-top: 1px solid var(--rule); }
dl div:first-child { border-top: 0; }
.wide dl { columns: 22rem 2; column-gap: 2rem; }
.wide dl div { border-top: 0; border-bottom: 1px solid var(--rule); }
dd { margin: 0; font-variant-numeric: tabular-nums; }
dd small { display: block; font-size: .8125rem; line-height: 1.4; }
figure { margin: .9rem 0 0; }
figcaption { font-size: .875rem; font-weight: 600; margin-bottom: .3rem; }
svg { display: block; }
.bars { display: grid; grid-template-columns: minmax(5rem, auto) minmax(3rem, 1fr) auto; gap: .25rem .6rem; align-items: center;
  font-size: .875rem; }
.bars .label { max-width: 11rem; line-height: 1.3; }
.bars svg { width: 100%; height: .7rem; }
.bars .shown { text-align: right; font-variant-numeric: tabular-nums; max-width: 9.5rem; line-height: 1.3; }
.bars svg.tall { height: 1.2rem; }
.zero { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 3 2; }
.track { fill: var(--track); }
.plot { position: relative; height: 9rem; margin: .5rem .25rem 1.4rem 3.4rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 0 1.5rem; }
.plot svg { width: 100%; height: 100%; }
.plot span { position: absolute; font-size: .75rem; line-height: 1; color: var(--soft); white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.plot .y { right: calc(100% + .4rem); transform: translateY(50%); }
.plot .x { top: calc(100% + .4rem); transform: translateX(-50%); }
.plot .x.first, .plot .x.last { transform: none; }
.axis { margin: -.1rem 0 0 3.4rem; font-size: .75rem; text-align: center; }
.s0 { --c: var(--s0); } .s1 { --c: var(--s1); } .s2 { --c: var(--s2); }
.s3 { --c: var(--s3); } .s4 { --c: var(--s4); } .s5 { --c: var(--s5); }
rect.s0 { fill: var(--c); }
path { fill: none; vector-effect: non-scaling-stroke; }
.grid { stroke: var(--rule); stroke-width: 1; }
.line { stroke: var(--c); stroke-width: 2; stroke-linejoin: round; }
.line.pale { opacity: .75; stroke-width: 1.5; }
.dots { stroke: var(--c); stroke-width: 6; stroke-linecap: round; }
.mark { stroke: var(--c); stroke-width: 1; stroke-dasharray: 4 3; }
.legend { display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; margin: .2rem 0 0; font-size: .8125rem; }
.key i { display: inline-block; width: 1.1rem; margin-right: .4rem; vertical-align: middle; border-top: 2px solid var(--c); }
.key i.dotted { border-top: 6px dotted var(--c); }
.key i.dash { border-top: 1px dashed var(--soft); }
.passage { margin-top: .9rem; padding-top: .6rem; border-top: 1px solid var(--rule); line-height: 1.65; }
.strong { font-weight: 600; }
.dim { color: var(--soft); }
.a { color: var(--a); } .b { color: var(--b); } .next { color: var(--next); } .not-next { color: var(--not-next); }
.masked { color: var(--masked); background: var(--masked-page); border-radius: .25rem; padding: .05rem .2rem;
  font-weight: 600; }
footer { margin-top: 1rem; font-size: .8125rem; }
"""


_BEGINNING = "<!doctype html>"


def print_and_publish(sheet: Sheet, place: str | None) -> None:
    """Writes a report's page, where a place is given for it, and prints the report. Raises UserError when it cannot."""
    if place == "":
        raise UserError("--html is empty; give the file to write, such as report.html")
    if place:
        if storage.find(place) and storage.read_bytes(place)[: len(_BEGINNING)] != _BEGINNING.encode():
            raise UserError(f"--html {place}: is there and is no page; choose another name, or remove it")
        storage.publish(place, page(sheet).encode())
    print_sheet(sheet)
    if place:
        print(printable(f"the page is in {place}"))


def page(sheet: Sheet) -> str:
    """The report as a page."""
    return "".join(
        (
            f'{_BEGINNING}\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n',
            f"<title>{text(sheet.title)} {text(sheet.place)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n",
            f'<header>\n<h1>{text(sheet.title)}</h1>\n<p class="place">{text(sheet.place)}</p>\n',
            f"<p>{text(sheet.summary)}</p>\n</header>\n",
            *_findings(sheet.findings),
            *_sections(sheet.sections),
            f"<footer>{text(sheet.footnote)}</footer>\n</main>\n</body>\n</html>\n",
        )
    )


def _findings(findings: Sequence[Finding]) -> Iterator[str]:
    if not findings:
        yield '<div class="findings">Nothing looks wrong.</div>\n'
        return
    yield '<div class="findings bad"><strong>Look at this first</strong><ul>\n'
    for finding in findings:
        yield f"<li><strong>{text(finding.what)}</strong> {text(finding.remedy)}</li>\n"
    yield "</ul></div>\n"


def _sections(sections: Sequence[Section]) -> Iterator[str]:
    """Runs of narrow sections in columns, wide ones between them."""
    for wide, run in groupby(sections, lambda section: section.wide):
        yield "" if wide else '<div class="cards">\n'
        for section in run:
            yield from _section(section)
        yield "" if wide else "</div>\n"


def _section(section: Section) -> Iterator[str]:
    yield f"<section{' class=wide' if section.wide else ''}>\n<h2>{text(section.title)}</h2>\n"
    if section.text:
        yield f'<p class="soft">{text(section.text)}</p>\n'
    if section.facts:
        yield "<dl>\n"
        for fact in section.facts:
            note = f"<small>{text(fact.note)}</small>" if fact.note else ""
            yield f"<div><dt>{text(fact.name)}</dt><dd>{text(fact.value)}{note}</dd></div>\n"
        yield "</dl>\n"
    if section.charts:
        yield f'<div class="charts">{"".join(draw(chart) for chart in section.charts)}</div>\n'
    if section.legend:
        yield f"<p>{_spans(section.legend)}</p>\n"
    for passage in section.passages:
        yield from _passage(passage)
    yield "</section>\n"


def _passage(passage: Passage) -> Iterator[str]:
    yield f'<div class="passage"><p>{_spans(passage.headline)}</p>\n'
    for label, spans in passage.lines:
        yield f"<p>{_spans([label])}{_spans(spans)}</p>\n"
    yield "</div>\n"


def _spans(spans: Sequence[Span]) -> str:
    parts = []
    for span in spans:
        inner = span.text.lstrip(" ")
        lead = " " * (len(span.text) - len(inner))
        parts.append(f'{lead}<span class="{span.mark}">{text(inner)}</span>' if span.mark else lead + text(inner))
    return "".join(parts)

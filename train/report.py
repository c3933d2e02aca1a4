"""`python -m train.report`: the curves of a run, or of several laid over each other, in the terminal and as a page."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence

from shards.command.console import Parser, clock, guarded, interrupt_once, short
from shards.errors import UserError
from shards.report.html import print_and_publish
from shards.report.sheet import Fact, Finding, Format, Line, Lines, Mark, Section, Sheet, brief
from train.findings import findings
from train.history import History, median, read_history

_MOST_POINTS = 400
_PLUNGE = 0.05
_UNLIKE = ("out", "data", "row_log", "wandb", "reader_threads", "log_every")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m train.report",
        description="Show how runs went: losses of training and held-out data, learning rate, throughput, waiting for data, "
        "restarts and skipped steps. A run may still be at work.",
        epilog="Exit codes: 0 done, 2 bad input (one line says what), 130 interrupted.",
    )
    parser.add_argument("runs", metavar="RUN_DIR", nargs="+", help="the --out of a run; several are laid over each other")
    parser.add_argument(
        "--html", metavar="FILE", help="write one page too, complete in itself: open it in any browser, or mail it"
    )
    return parser


def make_sheet(runs: Sequence[History]) -> Sheet:
    """The report of runs that have reported something."""
    names = run_names([run.url for run in runs])
    told = [
        Finding(f"{name}: {finding.what}" if len(runs) > 1 else finding.what, finding.remedy)
        for name, run in zip(names, runs, strict=True)
        for finding in findings(run)
    ]
    last = max(run.done for run in runs)
    summary = (
        f"{runs[0].done:,} of {runs[0].num_steps:,} steps" if len(runs) == 1 else f"{len(runs)} runs, up to {last:,} steps"
    )
    curves = Section("Curves", _legend_text(len(runs)), charts=list(_charts(names, runs, last)), wide=True)
    about = [
        Section(name if len(runs) > 1 else "Run", "", list(_facts(run)), wide=len(runs) == 1)
        for name, run in zip(names, runs, strict=True)
    ]
    different = list(_differences(runs))
    if different:
        about.append(Section("What differs", f"Settings of {', '.join(names)}, in this order.", different))
    return Sheet("Run" if len(runs) == 1 else "Runs", ", ".join(run.url for run in runs), summary, told, (curves, *about))


def run_names(urls: Sequence[str]) -> list[str]:
    """The last part of each URL where that tells them apart, else the whole."""
    names = [url.rstrip("/").rpartition("/")[2] or url for url in urls]
    return names if len(set(names)) == len(names) else list(urls)


def _facts(run: History) -> Iterator[Fact]:
    state = {"end": "finished", "stop": "stopped", "": "at work, or killed"}[run.ending]
    yield Fact("state", state, f"{run.done:,} of {run.num_steps:,} steps")
    if run.settings:
        settings = run.settings
        yield Fact("model", str(settings.get("model")), f"on {settings.get('data')}")
        yield Fact("rows a step", str(settings.get("global_batch")), f"peak learning rate {_plain(settings.get('lr'))}")
    if run.starts:
        yield Fact("processes", _list(str(line.get("world_size")) for line in run.starts), f"on {run.starts[-1].get('device')}")
    yield Fact("restarts", f"{len(run.restarts):,}", _list(f"after step {line['step']:,}" for line in run.restarts))
    yield Fact("skipped steps", f"{sum(line.get('skipped') or 0 for line in run.train):,}", "their gradient was not finite")
    yield Fact("time at work", clock(run.busy_s), "all starts together")
    speed, waiting = median(run, "tokens_per_s"), median(run, "data_wait_share")
    if speed is not None:
        yield Fact("throughput", f"{short(speed)} tokens/s", "median; padding not counted")
    if waiting is not None:
        yield Fact("waiting for data", f"{waiting:.1%}", "of the time, median")
    last = run.train[-1]
    yield Fact(
        "training loss", _loss(last.get("loss")), f"MLM {_loss(last.get('mlm_loss'))}, NSP {_loss(last.get('nsp_loss'))}"
    )
    if run.evals:
        yield from _score_facts(run.evals[-1].get)
    if run.unreadable:
        yield Fact("lines not readable", str(run.unreadable), "half written when a process was killed")


def _score_facts(score: Callable[[str], float | None]) -> Iterator[Fact]:
    yield Fact("held-out MLM loss", _loss(score("mlm_loss")), f"guessing by frequency: {_loss(score('unigram_loss'))}")
    if score("mlm_accuracy") is not None:
        yield Fact("held-out MLM accuracy", f"{score('mlm_accuracy'):.1%}", f"perplexity {score('perplexity') or 0:.4g}")
    if score("nsp_loss") is not None:
        note = f"always the commoner answer: {score('majority_share') or 0:.1%}"
        yield Fact("held-out NSP accuracy", f"{score('nsp_accuracy') or 0:.1%}", f"loss {_loss(score('nsp_loss'))}; {note}")


def _charts(names: Sequence[str], runs: Sequence[History], last: int) -> Iterator[Lines]:
    marks = [mark for group, run in enumerate(runs) for mark in _marks(names[group] if len(runs) > 1 else "", run, group)]
    has_pairs = any(line.get("nsp_loss") for run in runs for line in run.train)
    scored = [("loss", "loss"), ("mlm_loss", "MLM loss"), ("nsp_loss", "NSP loss")] if has_pairs else [("mlm_loss", "MLM loss")]
    for field, title in scored:
        lines = _loss_lines(names, runs, field)
        yield Lines(f"{title}, nats", lines, _four, last, marks=marks, high=_settled(lines, last))
    plain: list[tuple[str, str, Format]] = [
        ("lr", "learning rate", "{:.3g}".format),
        ("grad_norm", "gradient norm", "{:.3g}".format),
        ("tokens_per_s", "tokens a second", brief),
        ("data_wait_share", "share of the time waiting for data", _percent),
    ]
    for field, title, shown in plain:
        lines = [
            _line(name if len(runs) > 1 else "training", run.train, field, group)
            for group, (name, run) in enumerate(zip(names, runs, strict=True))
        ]
        yield Lines(title, lines, shown, last, from_zero=True, marks=marks)


def _settled(lines: Sequence[Line], last: int) -> float | None:
    """The highest value behind the first steps, whose plunge would flatten all the rest."""
    known = [y for line in lines for x, y in zip(line.xs, line.ys, strict=True) if y is not None and x > _PLUNGE * last]
    return max(known, default=None)


def _loss_lines(names: Sequence[str], runs: Sequence[History], field: str) -> list[Line]:
    lines = []
    for group, (name, run) in enumerate(zip(names, runs, strict=True)):
        several = len(runs) > 1
        evals = [line | {"loss": _sum(line.get("mlm_loss"), line.get("nsp_loss"))} for line in run.evals]
        lines.append(_line(f"{name}, training" if several else "training", run.train, field, group))
        if any(line.get(field) is not None for line in evals):
            title = f"{name}, held out" if several else "held out"
            lines.append(_line(title, evals, field, group if several else 1, dotted=True))
    return lines


def _line(name: str, lines: Sequence[dict[str, float | None]], field: str, group: int, dotted: bool = False) -> Line:
    """A curve of at most `_MOST_POINTS` points: means over runs of lines where there are more."""
    size = -(-len(lines) // _MOST_POINTS)
    xs, ys = [], []
    for first in range(0, len(lines), max(1, size)):
        part = lines[first : first + size]
        known = [float(value) for line in part if (value := line.get(field)) is not None]
        xs.append(int(part[-1]["step"] or 0))
        ys.append(sum(known) / len(known) if known else None)
    return Line(name, xs, ys, group, dotted)


def _marks(name: str, run: History, group: int) -> Iterator[Mark]:
    whose = f" of {name}" if name else ""
    for line in run.restarts:
        yield Mark(line["step"], f"restart at step {line['step']:,}{whose}, on {line.get('world_size')} processes", group)
    for line in run.train:
        if line.get("skipped"):
            yield Mark(line["step"], f"skipped steps at step {line['step']:,}{whose}: {line['skipped']}", group)


def _differences(runs: Sequence[History]) -> Iterator[Fact]:
    for name in sorted({name for run in runs for name in run.settings if name not in _UNLIKE}):
        values = [_plain(run.settings.get(name)) for run in runs]
        if len(set(values)) > 1:
            yield Fact(name.replace("_", " "), ", ".join(values))


def _legend_text(num_runs: int) -> str:
    whose = (
        "Lines are training, dots held-out data" if num_runs == 1 else "A colour a run: lines are training, dots held-out data"
    )
    return f"{whose}. What the first steps lose may lie above a chart."


def _sum(mlm_loss: float | None, nsp_loss: float | None) -> float | None:
    return None if mlm_loss is None else mlm_loss + (nsp_loss or 0.0)


def _list(parts: Iterator[str]) -> str:
    every = list(parts)
    return ", ".join(every[:5]) + (f", and {len(every) - 5} more" if len(every) > 5 else "")


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _loss(value: float | None) -> str:
    return "not finite" if value is None else _four(value)


def _four(value: float) -> str:
    return f"{value:.4g}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}".removesuffix(".0") + "%"


def main(argv: Sequence[str] | None = None) -> int:
    """The command's entry."""

    def run() -> int:
        arguments = make_parser().parse_args(argv)
        if len(set(arguments.runs)) < len(arguments.runs):
            raise UserError("a run is named twice; name each once")
        print_and_publish(make_sheet([read_history(url) for url in arguments.runs]), arguments.html)
        return 0

    interrupt_once()
    return guarded("train.report", run)


if __name__ == "__main__":
    sys.exit(main())

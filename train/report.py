"""`python -m train.report`: the curves of a run, or of several runs over one another, in the terminal and as a page."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from shards.command.console import Parser, guarded, interrupt_once, program
from shards.command.numbers import clock, short
from shards.errors import UserError
from shards.report.html import print_and_publish
from shards.report.sheet import Fact, Finding, FormatNumber, Line, Lines, Mark, Section, Sheet, brief
from train.history import History, median, read_history

_MAX_POINTS = 400
_MAX_MARKS = 200
# Share of a run whose losses do not count for the height of a loss chart: their plunge would flatten all that follows.
_PLUNGE = 0.05
# Limits beyond which a figure is a finding.
_MAX_WAITING = 0.05
_OVERFIT = 1.02
# Settings that differ between runs without changing what a run computes.
_INCIDENTAL = ("out", "data", "row_log", "wandb", "reader_threads", "log_every")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog=program("bert-report", "train.report"),
        description="Show how runs went: losses on training and held-out data, learning rate, throughput, time spent waiting "
        "for data, restarts and skipped steps. Works while a run is training, too.",
        epilog="Exit codes: 0 done, 2 bad input (one line names it), 130 interrupted.",
    )
    parser.add_argument(
        "runs", metavar="RUN_DIR", nargs="+", help="the --out of a run; the curves of several runs share one chart"
    )
    parser.add_argument("--html", metavar="FILE", help="also write the report as one self-contained HTML page")
    return parser


def make_sheet(runs: Sequence[History]) -> Sheet:
    """The report of one or more runs."""
    names = run_names([run.url for run in runs])
    several = len(runs) > 1
    problems = [
        Finding(f"{name}: {finding.problem}" if several else finding.problem, finding.remedy)
        for name, run in zip(names, runs, strict=True)
        for finding in findings(run)
    ]
    last = max(run.done for run in runs)
    summary = f"{len(runs)} runs, up to {last:,} steps" if several else f"{runs[0].done:,} of {runs[0].num_steps:,} steps"
    colours = "Each run has a colour. Its line is training, its dots are" if several else "Lines are training, dots are"
    curves = Section(
        "Curves",
        f"{colours} held-out data. The losses of the first steps may be above the top of a chart.",
        charts=list(_charts(names, runs, last)),
        wide=True,
    )
    about = [
        Section(name if several else "Run", "", list(_facts(run)), wide=not several)
        for name, run in zip(names, runs, strict=True)
    ]
    different = list(_differences(runs))
    if different:
        about.append(Section("Differences", f"Settings of {', '.join(names)}, in this order.", different))
    return Sheet("Runs" if several else "Run", ", ".join(run.url for run in runs), summary, problems, (curves, *about))


def run_names(urls: Sequence[str]) -> list[str]:
    """The last part of each URL if that tells them apart, else the whole URLs."""
    names = [url.rstrip("/").rpartition("/")[2] or url for url in urls]
    return names if len(set(names)) == len(names) else list(urls)


def findings(run: History) -> Iterator[Finding]:
    """What looks wrong with a run, and what to do about it."""
    if not run.ending:
        yield Finding(
            f"The run has not ended: after step {run.done:,} of {run.num_steps:,} it is at work, or it was killed.",
            "If it was killed, the same command resumes it from its last checkpoint.",
        )
    elif run.ending == "stop":
        yield Finding(f"The run was stopped after step {run.done:,} of {run.num_steps:,}.", "The same command resumes it.")
    skipped = sum(line.get("skipped") or 0 for line in run.train)
    if skipped or any(line.get("loss") is None for line in run.train):
        yield Finding(
            f"The loss or its gradient was not finite; {skipped:,} steps were skipped.",
            "Lower --lr or raise --warmup-steps, with another --out.",
        )
    waiting = median(run, "data_wait_share")
    if waiting is not None and waiting > _MAX_WAITING:
        yield Finding(
            f"The run spent {waiting:.0%} of its time waiting for data.",
            "Raise --reader-threads, or move the data set closer (--cache).",
        )
    yield from _score_findings(run)


def _score_findings(run: History) -> Iterator[Finding]:
    if not any(line.get("mlm_loss") is not None for line in run.evals):
        yield Finding(
            "There are no scores on held-out data.", "Build the data set with --eval-fraction, and train with --eval-every."
        )
    for name, lines in run.evals_by_data.items():
        scores = [line for line in lines if line.get("mlm_loss") is not None]
        if scores:
            yield from _findings_of_scores(f" of {name}" if name else "", scores)


def _findings_of_scores(of_data: str, scores: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    """What looks wrong with the scores on a data set, and what to do about it."""
    last, best = scores[-1], min(scores, key=lambda line: float(line["mlm_loss"]))
    if last["mlm_loss"] > _OVERFIT * best["mlm_loss"]:
        yield Finding(
            f"The held-out MLM loss{of_data} rose from {best['mlm_loss']:.4g} at step {best['step']:,} to "
            f"{last['mlm_loss']:.4g}.",
            "The model overfits: use more data or --copies, fewer --steps, or more --dropout.",
        )
    if last["mlm_loss"] >= (last.get("unigram_loss") or float("inf")):
        yield Finding(
            f"The held-out MLM loss{of_data}, {last['mlm_loss']:.4g}, is no better than guessing by token frequency "
            f"({last['unigram_loss']:.4g}).",
            "Train longer; if that does not help, change --lr.",
        )
    accuracy, majority = last.get("nsp_accuracy"), last.get("majority_share")
    if accuracy is not None and majority is not None and accuracy <= majority:
        yield Finding(
            f"NSP has learnt nothing yet{of_data.replace('of', 'on', 1)}: accuracy {accuracy:.1%}; always giving the commoner "
            f"label has {majority:.1%}.",
            "It needs more steps, and often a larger --model.",
        )


def _facts(run: History) -> Iterator[Fact]:
    state = {"end": "finished", "stop": "stopped", "": "at work, or killed"}[run.ending]
    yield Fact("state", state, f"{run.done:,} of {run.num_steps:,} steps")
    if run.settings:
        settings = run.settings
        yield Fact("model", str(settings.get("model")), f"on {settings.get('data')}")
        yield Fact("rows per step", str(settings.get("global_batch")), f"peak learning rate {_plain(settings.get('lr'))}")
    if run.starts:
        yield Fact("processes", _list(str(line.get("world_size")) for line in run.starts), f"on {run.starts[-1].get('device')}")
    yield Fact("restarts", f"{len(run.restarts):,}", _list(f"after step {line['step']:,}" for line in run.restarts))
    if run.phase_starts:
        starts = _list(f"phase {number} after step {step:,}" for number, step in run.phase_starts)
        yield Fact("phases", str(1 + len(run.phase_starts)), starts)
    yield Fact("skipped steps", f"{sum(line.get('skipped') or 0 for line in run.train):,}", "their gradient was not finite")
    yield Fact("working time", clock(run.busy_s), "sum over all starts")
    speed, waiting = median(run, "tokens_per_s"), median(run, "data_wait_share")
    if speed is not None:
        yield Fact("throughput", f"{short(speed)} tokens/s", "median, without padding")
    if waiting is not None:
        yield Fact("waiting for data", f"{waiting:.1%}", "median share of the time")
    last = run.train[-1]
    parts = f"MLM {_loss(last.get('mlm_loss'))}, NSP {_loss(last.get('nsp_loss'))}"
    yield Fact("training loss", _loss(last.get("loss")), parts)
    for name, evals in run.evals_by_data.items():
        yield from _score_facts(evals[-1].get, f" of {name}" if name else "")
    if run.unreadable:
        yield Fact("unreadable lines", str(run.unreadable), "a kill leaves a half-written line")


def _score_facts(score: Callable[[str], float | None], of_data: str) -> Iterator[Fact]:
    unigram = f"guessing by token frequency: {_loss(score('unigram_loss'))}"
    yield Fact(f"held-out MLM loss{of_data}", _loss(score("mlm_loss")), unigram)
    if score("mlm_accuracy") is not None:
        perplexity = f"perplexity {score('perplexity') or 0:.4g}"
        yield Fact(f"held-out MLM accuracy{of_data}", f"{score('mlm_accuracy'):.1%}", perplexity)
    if score("nsp_loss") is not None:
        note = f"loss {_loss(score('nsp_loss'))}; always the commoner label: {score('majority_share') or 0:.1%}"
        yield Fact(f"held-out NSP accuracy{of_data}", f"{score('nsp_accuracy') or 0:.1%}", note)


def _charts(names: Sequence[str], runs: Sequence[History], last: int) -> Iterator[Lines]:
    several = len(runs) > 1
    marks = [mark for group, run in enumerate(runs) for mark in _few_marks(names[group] if several else "", run, group)]
    losses = [("loss", "loss"), ("mlm_loss", "MLM loss"), ("nsp_loss", "NSP loss")]
    if not any(line.get("nsp_loss") for run in runs for line in run.train):
        losses = [("mlm_loss", "MLM loss")]
    for field, title in losses:
        lines = list(_loss_lines(names, runs, field))
        yield Lines(f"{title}, nats", lines, _four_digits, last, marks=marks, high=_settled(lines, last))
    others: list[tuple[str, str, FormatNumber]] = [
        ("lr", "learning rate", "{:.3g}".format),
        ("grad_norm", "gradient norm", "{:.3g}".format),
        ("tokens_per_s", "tokens per second", brief),
        ("data_wait_share", "share of the time spent waiting for data", _percent),
    ]
    for field, title, format_number in others:
        labels = names if several else ["training"]
        lines = [_line(labels[group], run.train, field, group) for group, run in enumerate(runs)]
        yield Lines(title, lines, format_number, last, from_zero=True, marks=marks)


def _settled(lines: Sequence[Line], last: int) -> float | None:
    """The highest value after the plunge of the first steps."""
    points = ((x, y) for line in lines for x, y in zip(line.xs, line.ys, strict=True) if y is not None)
    return max((y for x, y in points if x > _PLUNGE * last), default=None)


def _loss_lines(names: Sequence[str], runs: Sequence[History], field: str) -> Iterator[Line]:
    several = len(runs) > 1
    for group, (name, run) in enumerate(zip(names, runs, strict=True)):
        prefix = f"{name}, " if several else ""
        yield _line(f"{prefix}training", run.train, field, group)
        for number, (data, lines) in enumerate(run.evals_by_data.items(), 1):
            evals = [line | {"loss": _sum(line.get("mlm_loss"), line.get("nsp_loss"))} for line in lines]
            if any(line.get(field) is not None for line in evals):
                label = f"{prefix}held out{f' of {data}' if data else ''}"
                yield _line(label, evals, field, group if several else number, dotted=True)


def _line(name: str, lines: Sequence[dict[str, float | None]], field: str, group: int, dotted: bool = False) -> Line:
    """A curve of at most `_MAX_POINTS` points; if there are more lines, each point is the mean of neighbouring ones."""
    size = -(-len(lines) // _MAX_POINTS)
    xs, ys = [], []
    for first in range(0, len(lines), max(1, size)):
        part = lines[first : first + size]
        values = [float(value) for line in part if (value := line.get(field)) is not None]
        xs.append(int(part[-1]["step"] or 0))
        ys.append(sum(values) / len(values) if values else None)
    return Line(name, xs, ys, group, dotted)


def _few_marks(name: str, run: History, group: int) -> Iterator[Mark]:
    """At most `_MAX_MARKS` of a run's marks; if there are more, each stands for several neighbouring ones and counts them."""
    marks = list(_marks(name, run, group))
    if len(marks) <= _MAX_MARKS:
        yield from marks
        return
    marks.sort(key=lambda mark: mark.step)
    size = -(-len(marks) // _MAX_MARKS)
    for part in (marks[first : first + size] for first in range(0, len(marks), size)):
        yield replace(part[0], event=f"{part[0].event}, and {len(part) - 1:,} more events up to step {part[-1].step:,}")


def _marks(name: str, run: History, group: int) -> Iterator[Mark]:
    suffix = f" of {name}" if name else ""
    for line in run.restarts:
        yield Mark(line["step"], f"restart at step {line['step']:,}{suffix}, on {line.get('world_size')} processes", group)
    for number, step in run.phase_starts:
        yield Mark(step, f"phase {number} begins after step {step:,}{suffix}", group)
    for line in run.train:
        if line.get("skipped"):
            yield Mark(line["step"], f"skipped steps at step {line['step']:,}{suffix}: {line['skipped']}", group)


def _differences(runs: Sequence[History]) -> Iterator[Fact]:
    for name in sorted({name for run in runs for name in run.settings if name not in _INCIDENTAL}):
        values = [_plain(run.settings.get(name)) for run in runs]
        if len(set(values)) > 1:
            yield Fact(name.replace("_", " "), ", ".join(values))


def _sum(mlm_loss: float | None, nsp_loss: float | None) -> float | None:
    return None if mlm_loss is None else mlm_loss + (nsp_loss or 0.0)


def _list(parts: Iterator[str], max_parts: int = 5) -> str:
    listed = ", ".join(islice(parts, max_parts))
    num_left = sum(1 for _ in parts)
    return f"{listed}, and {num_left} more" if num_left else listed


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _loss(value: float | None) -> str:
    return "not finite" if value is None else _four_digits(value)


def _four_digits(value: float) -> str:
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

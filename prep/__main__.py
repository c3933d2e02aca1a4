"""`python -m prep`, or `bert-prep`: build, plan, verify, report, show, clean."""

import argparse
import atexit
import gc
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from prep.engines import forks

if sys.argv[1:2] == ["build"] and not any(word.startswith(("--engine", "--help", "-h")) for word in sys.argv):
    forks.start()  # it loads while this process imports and plans

from prep.engines.local import cores
from prep.settings import SECTIONS, Settings, from_arguments
from shards.command.console import EXIT_WRONG, Parser, guarded, interrupt_once, printable, program, say
from shards.command.options import add_arguments


def make_parser() -> argparse.ArgumentParser:
    """The command line. The function of each command is in `arguments.run`."""
    parser = Parser(
        prog=program("bert-prep", "prep"),
        description="Turn a text corpus into packed and masked shards for pre-training encoders such as BERT and ModernBERT.",
        epilog="Exit codes: 0 done, 1 `verify` found something wrong, 2 bad input (one line names it), 75 an earlier stage is "
        "not done yet, 130 interrupted.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    build = _add(commands, "build", _build, "make a data set; the same command resumes a build that was stopped")
    plan = _add(commands, "plan", _plan, "print what build would do, without doing it")
    for command in (build, plan):
        add_arguments(command, Settings, SECTIONS)
    plan.add_argument("--json", action="store_true", help="print all figures by name, as JSON")
    verify = _add(commands, "verify", _verify, "check every hash, count and invariant of a data set")
    verify.add_argument("url", metavar="URL", help="folder of the data set")
    verify.add_argument("--workers", type=int, default=cores(), metavar="N", help="number of processes (default: all cores)")
    show = _add(commands, "show", _show, "print sequences as text, with segments, masks and labels marked")
    show.add_argument("url", metavar="URL", help="folder of the data set")
    show.add_argument("-n", type=int, default=5, metavar="N", help="number of sequences (default: 5)")
    show.add_argument("--split", default="train", choices=("train", "eval"), help="split to show (default: train)")
    show.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the choice of sequences (default: 0)")
    report = _add(commands, "report", _report, "print what looks wrong with a data set and what is in it; --html writes a page")
    report.add_argument("url", metavar="URL", help="folder of the data set")
    report.add_argument("--html", metavar="FILE", help="also write one self-contained page, for any browser")
    report.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the sample of rows, for a large data set (default: 0)"
    )
    clean = _add(commands, "clean", _clean, "remove the tokens and vocabularies that builds keep for later ones")
    clean.add_argument("--scratch", required=True, metavar="URL", help="scratch folder of the builds")
    return parser


def _add(commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text.capitalize() + ".")
    parser.set_defaults(run=run)
    return parser


# Each command imports what it needs, then calls `interrupt_once`: a signal during the imports ends the process at once. An
# exception raised by a signal handler in the middle of an import might be caught by the imported module.


def _build(arguments: argparse.Namespace) -> int:
    from prep.build import build
    from prep.summary import summary

    interrupt_once()
    started = time.monotonic()
    settings = from_arguments(vars(arguments))
    manifest = build(settings)
    for line in summary(manifest, settings.out, time.monotonic() - started) if manifest else ():
        say(line)
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from prep.summary import describe_plan, plan_as_json

    interrupt_once()
    settings = from_arguments(vars(arguments))
    for line in [plan_as_json(settings)] if arguments.json else describe_plan(settings):
        print(printable(line))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from prep.inspect.verify import verify

    interrupt_once()
    faults = verify(arguments.url, arguments.workers)
    for line in faults or [f"{arguments.url}: nothing wrong"]:
        print(printable(line))
    return EXIT_WRONG if faults else 0


def _show(arguments: argparse.Namespace) -> int:
    from prep.inspect.show import show

    interrupt_once()
    show(arguments.url, arguments.split, arguments.n, arguments.seed)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from prep.inspect.report import report
    from shards.report.html import print_and_publish

    interrupt_once()
    print_and_publish(report(arguments.url, arguments.seed), arguments.html)
    return 0


def _clean(arguments: argparse.Namespace) -> int:
    from prep.tokens.scratch import clean

    interrupt_once()
    print(printable(clean(arguments.scratch)))
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Runs the command of the parsed arguments; returns its exit code."""
    command: Callable[[argparse.Namespace], int] = arguments.run
    return command(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns its exit code. An error that the user can mend is one line and exit code 2."""
    logging.basicConfig(format="prep: %(message)s")
    atexit.register(gc.freeze)  # so that the interpreter does not look for garbage among all that is there, and ends sooner
    return guarded("prep", lambda: run(make_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())

"""`python -m prep`: build, plan, verify, report, show, clean."""

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from prep.settings import SECTIONS, Settings, from_arguments
from shards.command.console import EXIT_WRONG, Parser, guarded, interrupt_once, printable, say
from shards.command.options import add_arguments


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m prep",
        description="Turn a text corpus into packed shards for BERT pre-training (next-sentence pairs and masked tokens).",
        epilog="Exit codes: 0 done, 1 `verify` found something wrong, 2 bad input (one line says what), 75 a --stage before "
        "this one is not done yet, 130 interrupted.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    texts = {
        "build": "make a data set, or finish one that was stopped: run the same command again",
        "plan": "say what build would do, and do nothing",
    }
    for name, text in texts.items():
        add_arguments(commands.add_parser(name, help=text, description=text.capitalize() + "."), Settings, SECTIONS)
    verify = _command(commands, "verify", "check every hash, count and invariant of a data set")
    verify.add_argument("url", metavar="URL", help="the data set's folder")
    verify.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: the cores)")
    show = _command(commands, "show", "print sequences as text, with segments, masks and labels marked")
    show.add_argument("url", metavar="URL", help="the data set's folder")
    show.add_argument("-n", type=int, default=5, metavar="N", help="how many sequences (default: 5)")
    show.add_argument("--split", default="train", choices=("train", "eval"), help="of which split (default: train)")
    show.add_argument("--seed", type=int, default=0, metavar="N", help="which ones (default: 0)")
    report = _command(commands, "report", "say what is in a data set, what looks wrong first; --html makes a page of it")
    report.add_argument("url", metavar="URL", help="the data set's folder")
    report.add_argument(
        "--html", metavar="FILE", help="write one page too, complete in itself: open it in any browser, or mail it"
    )
    report.add_argument(
        "--seed", type=int, default=0, metavar="N", help="which rows of a large data set are sampled (default: 0)"
    )
    clean = _command(commands, "clean", "remove the token stores and vocabularies that builds keep for later builds")
    clean.add_argument("--scratch", required=True, metavar="URL", help="the scratch folder of those builds")
    return parser


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text.capitalize() + ".")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Runs one command; returns its exit code."""
    values = vars(arguments)
    if arguments.command == "build":
        from prep.build import build
        from prep.summary import summary

        started = time.monotonic()
        settings = from_arguments(values)
        manifest = build(settings)
        for line in summary(manifest, settings.out, time.monotonic() - started) if manifest else ():
            say(line)
    elif arguments.command == "plan":
        from prep.summary import describe_plan

        for line in describe_plan(from_arguments(values)):
            print(printable(line))
    elif arguments.command == "verify":
        from prep.inspect.verify import verify

        faults = verify(arguments.url, arguments.workers)
        for fault in faults:
            print(printable(fault))
        if not faults:
            print(printable(f"{arguments.url}: nothing wrong"))
        return EXIT_WRONG if faults else 0
    elif arguments.command == "show":
        from prep.inspect.show import show

        show(arguments.url, arguments.split, arguments.n, arguments.seed)
    elif arguments.command == "report":
        from prep.inspect.report import report
        from shards.report.html import print_and_publish

        print_and_publish(report(arguments.url, arguments.seed), arguments.html)
    else:
        from prep.summary import clean

        print(printable(clean(arguments.scratch)))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command's entry: errors that people can mend are one line and exit code 2."""
    logging.basicConfig(format="prep: %(message)s")
    interrupt_once()
    return guarded("prep", lambda: run(make_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())

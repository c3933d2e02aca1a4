"""`torchrun ... -m train` (or `bert-train`): train an encoder from shards. The same command resumes a run that was stopped.

flags -> Settings -> prepare: data, order, model -> resume: newest checkpoint -> Trainer: the loop -> checkpoints, metrics
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from shards.command.console import EXIT_WRONG, Parser, guarded, interrupt_once, printable, program, say, silenced
from shards.command.options import add_arguments
from train.recipe.file import read_recipe
from train.settings import SECTIONS, Settings
from train.stopping import StopRequest, end_at_once

if TYPE_CHECKING:
    from train.ranks import Ranks


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog=program("bert-train", "train"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train an encoder, such as BERT, on the data set that `prep build` wrote, on one process or\n"
        "on any number of them:\n"
        "  torchrun --standalone --nproc-per-node N -m train ...\n"
        "  torchrun --standalone --nproc-per-node N --no-python bert-train ...\n"
        "The same command resumes a run that was stopped or killed.",
        epilog="Exit codes of each process: 0 finished, or stopped by SIGTERM or SIGINT with everything saved; 1 another\n"
        "process of the run was lost; 2 bad input (one line names it). torchrun itself returns 1 for any of them except 0.",
    )
    add_arguments(parser, Settings, SECTIONS)
    parser.add_argument("--ledger", dest="row_log", metavar="DIR", default=argparse.SUPPRESS, help="alias of --row-log")
    parser.add_argument(
        "--recipe",
        metavar="FILE.toml",
        help="run several phases: settings of the run, then a [[phase]] for each, in order, with its own; docs/phases.md "
        "describes it",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, run the largest micro-batch, print memory and the plan; train and write nothing",
    )
    return parser


def run(arguments: argparse.Namespace, stop: StopRequest) -> int:
    """One start of a run; returns its exit code."""
    recipe = read_recipe(vars(arguments))
    # torch takes seconds to import: --help and bad flags need not wait for it
    from train.models.encoder import quiet
    from train.ranks import LostRankError, joined

    quiet()
    try:
        with joined() as ranks:
            return _rehearse(recipe, ranks) if arguments.dry_run else _train(recipe, ranks, stop)
    except LostRankError as error:
        say(f"train: {error}; checkpoints are kept, run the same command again to resume")
        return EXIT_WRONG


def _rehearse(recipe: Sequence[Settings], ranks: "Ranks") -> int:
    """`--dry-run`."""
    from train.start.dry_run import describe, rehearse
    from train.start.join import join_ranks
    from train.start.micro_batch import settle_all
    from train.start.prepare import prepare

    interrupt_once()
    recipe, settled = settle_all(recipe, ranks)
    run, messages = ranks.agreed(lambda: prepare(recipe, ranks))
    messages += settled + join_ranks(run)
    for line in (*messages, *describe(run), *rehearse(run)):
        if ranks.rank == 0:
            print(printable(line), flush=True)
    return 0


def _train(recipe: Sequence[Settings], ranks: "Ranks", stop: StopRequest) -> int:
    from train.loop import Trainer
    from train.metrics import Reporter
    from train.row_log import RowLog
    from train.start.join import join_ranks
    from train.start.micro_batch import settle_all
    from train.start.prepare import prepare
    from train.start.resume import claimed, resume

    recipe, settled = settle_all(recipe, ranks)
    run, messages = ranks.agreed(lambda: prepare(recipe, ranks))
    with claimed(run):
        messages += settled + resume(run, say)
        messages += join_ranks(run)
        row_log = RowLog(run.settings.row_log, ranks)
        reporter = ranks.agreed(lambda: Reporter(run))
        try:
            for line in messages:
                reporter.say(line)
            stop.listen()
            num_done = Trainer(run, reporter, row_log, stop).train()
            is_stopped = num_done < run.num_steps
            reporter.log("stop" if is_stopped else "end", num_done, {})
            reporter.say(
                f"stopped after step {num_done} of {run.num_steps}; run the same command again to resume"
                if is_stopped
                else f"{run.num_steps} steps are done; the model is in {run.settings.out}"
            )
        finally:
            reporter.close()
            row_log.close()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code. Bad input is one line, of rank 0, and exit code 2 of every process."""
    is_first = os.environ.get("RANK", "0") == "0"
    stop = StopRequest()
    end_at_once()
    with silenced(not is_first):
        arguments = make_parser().parse_args(argv)
    return guarded("train", lambda: run(arguments, stop), quiet=not is_first)


def _leave(code: int) -> NoReturn:
    """Ends the process at once.

    While Python shuts down it no longer handles signals, and torchrun sends one to all ranks as soon as the first has ended
    with an error: the exit code would be lost.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def command() -> NoReturn:
    """The program `bert-train`, and `python -m train`."""
    try:
        _leave(main())
    except Exception:  # a bug: the traceback is printed, and the process ends as fast
        traceback.print_exc()
        _leave(EXIT_WRONG)


if __name__ == "__main__":
    command()

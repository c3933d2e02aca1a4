"""`torchrun ... -m train`: train BERT from shards; stop it anywhere, run the same command again, and it goes on."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from shards.command.console import EXIT_WRONG, Parser, guarded, interrupt_once, printable, say, silenced
from shards.command.options import add_arguments
from shards.errors import UserError
from train.settings import SECTIONS, Settings, from_arguments
from train.stopping import StopRequest

if TYPE_CHECKING:
    from train.ranks import Ranks


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m train",
        description="Train BERT (masked tokens and next sentences) from the shards of `prep`, alone or on any number of "
        "processes: torchrun --standalone --nproc-per-node N -m train ... A run that was stopped goes on where it was.",
        epilog="Exit codes of each process: 0 done, or stopped by SIGTERM or SIGINT with everything saved; 1 another process "
        "of the run was lost; 2 bad input (one line says what). torchrun itself returns 1 for any of them but 0.",
    )
    add_arguments(parser, Settings, SECTIONS)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, run the largest micro-batch, print memory and the plan, and train and write nothing",
    )
    return parser


def run(arguments: argparse.Namespace, stop: StopRequest) -> int:
    """One start of a run; returns its exit code."""
    settings = from_arguments(vars(arguments))
    from torch import OutOfMemoryError

    from train.ranks import LostRankError, joined  # torch takes seconds to import; --help and a slip need not wait for it
    from train.weights import quiet

    quiet()
    try:
        with joined() as ranks:
            return _rehearse(settings, ranks) if arguments.dry_run else _train(settings, ranks, stop)
    except OutOfMemoryError as error:
        raise UserError(f"--micro-batch {settings.micro_batch} does not fit the device's memory; lower it ({error})") from error
    except LostRankError as error:
        say(f"train: {error}; what is saved is kept, run the same command again to go on")
        return EXIT_WRONG


def _rehearse(settings: Settings, ranks: "Ranks") -> int:
    from train.dry_run import describe, rehearse
    from train.run import join_ranks, prepare

    run, said = ranks.agreed(lambda: prepare(settings, ranks))
    join_ranks(run)
    for line in (*said, *describe(run), *rehearse(run)):
        if ranks.rank == 0:
            print(printable(line), flush=True)
    return 0


def _train(settings: Settings, ranks: "Ranks", stop: StopRequest) -> int:
    from train.loop import Trainer
    from train.metrics import Reporter
    from train.row_log import Ledger
    from train.run import claimed, join_ranks, prepare, resume

    run, said = ranks.agreed(lambda: prepare(settings, ranks))
    with claimed(run):
        said += resume(run, say)
        join_ranks(run)
        ledger = Ledger(settings.ledger, ranks)
        reporter = ranks.agreed(lambda: Reporter(run))
        try:
            for line in said:
                reporter.say(line)
            done = Trainer(run, reporter, ledger, stop).train()
            stopped = done < run.num_steps
            reporter.log("stop" if stopped else "end", done, {})
            reporter.say(
                f"stopped after step {done} of {run.num_steps}; run the same command again to go on"
                if stopped
                else f"{run.num_steps} steps are done; the model is in {settings.out}"
            )
        finally:
            reporter.close()
            ledger.close()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command's entry: errors that people can mend are one line, of rank 0, and exit code 2 of every process."""
    first = os.environ.get("RANK", "0") == "0"
    stop = StopRequest().listen()
    with silenced(not first):
        arguments = make_parser().parse_args(argv)
    if arguments.dry_run:
        interrupt_once()  # there is nothing to save
    return guarded("train", lambda: run(arguments, stop), quiet=not first)


def _leave(code: int) -> NoReturn:
    """Ends the process at once. While Python tears itself down it no longer hears signals, and torchrun sends one to all
    ranks as soon as the first has ended with an error: the code would be lost."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def command() -> NoReturn:
    """The program `bert-train`, and `python -m train`."""
    try:
        _leave(main())
    except Exception:  # a fault of the program: shown, and then the end is as quick
        traceback.print_exc()
        _leave(EXIT_WRONG)


if __name__ == "__main__":
    command()

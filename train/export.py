"""`python -m train.export` (or `bert-export`): a checkpoint as a folder that transformers loads."""

import argparse
import sys
from collections.abc import Sequence

from shards import storage
from shards.command.console import Parser, guarded, interrupt_once, printable, program, say
from shards.errors import UserError
from train import checkpoint


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog=program("bert-export", "train.export"),
        description="Write a checkpoint as a Hugging Face folder: AutoModelForMaskedLM, AutoTokenizer and pipelines load it.",
        epilog="Exit codes: 0 done, 2 bad input (one line names it), 130 interrupted.",
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="URL", help="folder of a run (its newest good checkpoint) or of a checkpoint"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write: model, configuration and tokenizer")
    return parser


def export(url: str, out: str) -> int:
    """Writes the folder; returns the step of the checkpoint. Raises UserError."""

    def read(saved: checkpoint.Checkpoint) -> dict[str, bytes]:
        saved.tensors(checkpoint.MODEL)  # a right sha256 does not prove that it is a file of tensors
        return {name: saved.read(name) for name in saved.record["files"] if name != checkpoint.OPTIMIZER}

    saved, files = checkpoint.locate(url, read, say)
    for name, data in files.items():
        storage.publish(storage.join(out, name), data)
    return saved.step


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""

    def run() -> int:
        arguments = make_parser().parse_args(argv)
        if not arguments.out or not arguments.checkpoint:
            raise UserError("--out or --checkpoint is empty")
        step = export(arguments.checkpoint, arguments.out)
        print(printable(f"{arguments.out}: the model after step {step}, with its tokenizer"))
        return 0

    interrupt_once()
    return guarded("train.export", run)


if __name__ == "__main__":
    sys.exit(main())

"""Measures training steps on one CPU thread: packed rows as `train` computes them, against the loop of a tutorial.

    python -m benchmarks.train [--models tiny,small] [--repeats N] [--data URL] [--scratch DIR]

ours    `ShardStream(packed=True)` -> `PackedEncoder`, then backward and update of `train.step`, as in `python -m train`.
padded  transformers' BertForPreTraining with its default attention and its own loss, so MLM logits at every place, and
        torch.optim.AdamW; on the same sequences, padded to 512 as the model's positions allow, or to the longest sequence
        that the data set may have.

A step is forward, backward and update in fp32, dropout 0.1. All variants take the same sequences in the same order, from the
same reader, and reading and collating are in the time. They take turns, so that a noise hits all alike; the first turn is
not counted. Tokens are real ones: special tokens are counted, padding is not. Shown are medians over the turns, and ratios
of medians with the lowest and highest ratio within a turn: by the processor time of all threads, which other processes
disturb less, and by the wall clock. Without --data the demo corpus is built, 128 packed into 512.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from statistics import median
from typing import NamedTuple, cast

import torch

from benchmarks.common import build_demo, machine, met, own_folder, say, table
from shards.dataset import open_data_set
from shards.errors import UserError
from shards.manifest import Manifest
from train.data.batch import PackedBatch, pad_batch
from train.data.order import Order, RowGroups
from train.data.phase_order import PhaseOrder
from train.data.reader import RankSlice, read_steps
from train.data.row_groups import DecodedGroups
from train.device import attention
from train.models.config import longest_sequence
from train.models.encoder import make_encoder
from train.models.packed import PackedEncoder
from train.models.sizes import SIZES
from train.optimizers.make import make_optimizer
from train.step import Counts, backward, dropout_seed, update
from train.stream import ShardStream

SPLIT = "train"
CPU = torch.device("cpu")
DROPOUT, LR, WEIGHT_DECAY, CLIP_NORM, SEED = 0.1, 1e-4, 0.01, 1.0, 0
POSITIONS = 512
READER_THREADS = 2
# More than any measurement needs: a small data set is read again and again.
EPOCHS = 1_000_000


class Plan(NamedTuple):
    """How a model is measured, so that its slowest variant ends, and what is to be reached."""

    rows: int = 4  # of a step
    steps: int = 1  # of a turn
    most_repeats: int = 3
    targets: tuple[float | None, float | None] = (None, None)  # ours to padded to 512, and to the longest


PLANS = {"tiny": Plan(8, 2, 100, (8.0, 2.0)), "small": Plan(targets=(5.0, 1.1))}


class Rate(NamedTuple):
    """Real tokens of a turn, by the second of processor time and by the second that passed."""

    cpu: float
    wall: float


class Data(NamedTuple):
    """A data set that is trained from."""

    url: str
    manifest: Manifest


def packed_loop(data: Data, model_name: str, rows: int) -> Iterator[int]:
    """Trains for ever; after each step, its real tokens."""
    encoder, _ = make_encoder(model_name, data.manifest, data.url, DROPOUT, SEED)
    attention.choose("auto", CPU, half=False, encoder=encoder)
    model, optimizer = PackedEncoder(encoder).train(), make_optimizer(encoder, WEIGHT_DECAY)
    stream = ShardStream(data.url, global_batch=rows, micro_batch=rows, epochs=EPOCHS, seed=SEED, packed=True)
    for step, item in enumerate(stream):
        batch = cast(PackedBatch, item)
        counts = Counts(batch.tokens, batch.masked, batch.pairs, batch.attended)
        backward(model, [batch], [dropout_seed(SEED, step, 0)], counts, nullcontext)
        update(encoder, optimizer, LR, CLIP_NORM)
        yield batch.tokens


def padded_loop(data: Data, model_name: str, rows: int, padded_to: int) -> Iterator[int]:
    """The tutorial's loop on the same rows; after each step, its real tokens."""
    model = make_encoder(model_name, data.manifest, data.url, DROPOUT, SEED)[0].train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    pad_id = data.manifest.tokenizer["special_ids"]["pad"]
    order = Order(RowGroups.of(data.manifest.splits[SPLIT]), SEED, rows, rows)
    groups = DecodedGroups(data.url, data.manifest, SPLIT, READER_THREADS)
    try:
        rank_slice = RankSlice(rank=0, world_size=1, first_step=0, start=0, end=EPOCHS * order.groups.num_rows)
        for given in read_steps(groups, PhaseOrder.of_one(order), rank_slice):
            batch = pad_batch(given.rows, padded_to, pad_id)
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            yield len(given.rows.input_ids)
    finally:
        groups.close()


def measure(data: Data, model_name: str, plan: Plan, repeats: int) -> dict[str, list[Rate]]:
    """How fast each variant was in each turn."""
    longest = longest_sequence(data.manifest)
    loops = {
        "ours": packed_loop(data, model_name, plan.rows),
        f"padded to {max(POSITIONS, longest)}": padded_loop(data, model_name, plan.rows, max(POSITIONS, longest)),
        f"padded to {longest}": padded_loop(data, model_name, plan.rows, longest),
    }
    if len(loops) < 3:
        raise UserError(f"{data.url}: has sequences of {longest} tokens, must be shorter than the {POSITIONS} padded to")
    rates: dict[str, list[Rate]] = defaultdict(list)
    for turn in range(repeats + 1):
        tokens = {}
        for name, loop in loops.items():
            wall, cpu = time.perf_counter(), time.process_time()
            tokens[name] = sum(next(loop) for _ in range(plan.steps))
            rate = Rate(tokens[name] / (time.process_time() - cpu), tokens[name] / (time.perf_counter() - wall))
            if turn:
                rates[name].append(rate)
            say(f"{model_name}, {name}, turn {turn} of {repeats}: {rate.cpu:,.0f} a CPU second, {rate.wall:,.0f} a second")
        if len(set(tokens.values())) > 1:
            raise RuntimeError(f"the variants had different sequences: {tokens}")
    for loop in loops.values():
        loop.close()  # type: ignore[attr-defined]  # a generator: ends its threads
    return rates


def rows_of(model_name: str, plan: Plan, rates: dict[str, list[Rate]]) -> Iterator[list[str]]:
    """What there is to say of one model: speeds, then ratios."""
    middle = {name: Rate(median(rate.cpu for rate in each), median(rate.wall for rate in each)) for name, each in rates.items()}
    for name, each in rates.items():
        spread = f"{min(each).cpu:,.0f}-{max(each).cpu:,.0f}"
        yield [f"{model_name}, {name}", f"{middle[name].cpu:,.0f}", spread, f"{middle[name].wall:,.0f}", "", ""]
    ours, *others = rates
    for other, target in zip(others, plan.targets, strict=True):
        cpu, wall = middle[ours].cpu / middle[other].cpu, middle[ours].wall / middle[other].wall
        turns = [mine.cpu / theirs.cpu for mine, theirs in zip(rates[ours], rates[other], strict=True)]
        verdict = ["", ""] if target is None else [f">= {target:g}", f"{met(cpu >= target)}, {met(wall >= target)}"]
        yield [f"{model_name}, {ours} : {other}", f"{cpu:.2f}", f"{min(turns):.2f}-{max(turns):.2f}", f"{wall:.2f}", *verdict]


def report(url: str, models: Sequence[str], repeats: int) -> list[str]:
    """Measures the models one after the other; the lines of the table."""
    data = Data(url, open_data_set(url))
    if data.manifest.settings["masking"] != "static":
        raise UserError(f"{url}: was built with --masking dynamic; the padded loop wants stored masks")
    split = data.manifest.splits[SPLIT].totals()
    lines, rows = [], []
    for name in models:
        plan = PLANS.get(name, Plan())
        turns = min(repeats, plan.most_repeats)
        sequences = plan.rows * split["sequences"] / split["rows"]
        lines.append(
            f"{name}: {turns} turns of {plan.steps} step{'s' * (plan.steps > 1)} of {plan.rows} rows, "
            f"some {sequences:.0f} sequences."
        )
        rows += list(rows_of(name, plan, measure(data, name, plan, turns)))
    vocabulary = data.manifest.tokenizer["vocab_size"]
    title = f"Training on one CPU thread, fp32, vocabulary of {vocabulary:,} entries. {' '.join(lines)}"
    header = ["real tokens a second", "CPU second", "lowest-highest", "wall clock", "target", "met (CPU, wall)"]
    return [title, "", *table(header, rows)]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description="Measures training steps on a CPU.")
    parser.add_argument("--models", default="tiny,small", help=f"of {', '.join(SIZES)} (default: tiny,small)")
    parser.add_argument("--repeats", type=int, default=7, help="turns; a slow model has at most 3 (default: 7)")
    parser.add_argument("--data", help="a data set with stored masks (default: builds the demo corpus)")
    parser.add_argument("--scratch", help="folder for the demo data set (default: the system's temporary one)")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.models.split(",") if name not in SIZES]
    if unknown:
        parser.error(f"--models are of {', '.join(SIZES)}, not {', '.join(unknown)}")
    if arguments.repeats < 1:
        parser.error("--repeats must be positive")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    arguments = parse(argv)
    torch.set_num_threads(1)
    try:
        with own_folder(arguments.scratch) as folder:
            url = arguments.data or str(build_demo(folder, "demo"))
            lines = report(url, arguments.models.split(","), arguments.repeats)
    except UserError as error:
        sys.exit(f"{error}")
    print("\n".join([machine("torch", "transformers", "numpy"), "", *lines]))


if __name__ == "__main__":
    main()

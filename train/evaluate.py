"""`python -m train.evaluate`: how well a checkpoint predicts the held-out split. Also run while training.

Every rank scores micro-batches of its own; their sums are added in the order of the data, so the scores do not depend on
the number of ranks.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from shards.command.console import Parser, guarded, interrupt_once, say, silenced
from shards.command.options import parse_bytes
from shards.dataset import open_data_set
from shards.errors import UserError
from shards.manifest import Manifest
from shards.masking import unmask_rows
from shards.schema import Rows
from train import attention, checkpoint
from train.data.batch import PackedBatch, Shape, pack_batch
from train.data.cache import Cache
from train.data.order import Places, RowGroups
from train.data.prefetch import Prefetcher, not_cached, open_cache
from train.data.reader import gather
from train.data.row_groups import DecodedGroups, check_sizes
from train.data.shard_uses import uses_in_sequence
from train.metrics import finite
from train.model import PackedBert
from train.ranks import Ranks, autocast, is_first, joined, use_half
from train.weights import bert_of, check_fit, quiet

SPLIT = "eval"


@dataclass(frozen=True)
class Scores:
    """Of held-out rows. Losses in nats; NSP and what belongs to it None where the data set has no pairs."""

    rows: int
    masked_tokens: int
    pairs: int
    mlm_loss: float
    perplexity: float
    mlm_accuracy: float
    unigram_loss: float
    nsp_loss: float | None
    nsp_accuracy: float | None
    majority_share: float | None

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"held out: {self.rows:,} rows, {self.masked_tokens:,} masked tokens, {self.pairs:,} pairs"
        yield f"    MLM loss {self.mlm_loss:.4f}, perplexity {self.perplexity:.5g}, accuracy {self.mlm_accuracy:.1%}"
        better = self.unigram_loss - self.mlm_loss
        yield f"    unigram cross-entropy {self.unigram_loss:.4f}: the model is {abs(better):.4f} nats " + (
            "better" if better >= 0 else "worse"
        )
        if self.nsp_loss is not None:
            yield (
                f"    NSP loss {self.nsp_loss:.4f}, accuracy {self.nsp_accuracy:.1%}; always saying the commoner answer: "
                f"{self.majority_share:.1%}"
            )


@dataclass(frozen=True)
class _Part:
    """Sums over one micro-batch: its number, losses in float64 and counts."""

    number: int
    mlm_loss: float
    nsp_loss: float
    mlm_right: int
    nsp_right: int
    masked: int
    pairs: int
    not_next: int


def evaluate(
    model: nn.Module,
    url: str,
    manifest: Manifest,
    ranks: Ranks,
    micro_batch: int,
    max_rows: int,
    autocast: Callable[[], Any],
    cache: Cache | None,
) -> Scores:
    """Scores the first `max_rows` rows of the held-out split (0: all). Raises UserError, on every rank, when it cannot."""
    groups = RowGroups.of(manifest.splits[SPLIT])
    num_rows = min(max_rows or groups.num_rows, groups.num_rows)
    if not num_rows:
        raise UserError(f"{url}: has no held-out split; build it with --eval-fraction above 0")
    counts = np.zeros((2, manifest.tokenizer["vocab_size"]), np.int64)  # of all ordinary tokens, and of masked ones
    ordinary = np.ones(counts.shape[1], np.bool_)
    ordinary[list(manifest.tokenizer["special_ids"].values())] = False
    shape = Shape.of(manifest, SPLIT, micro_batch, None)
    pad_id = manifest.tokenizer["special_ids"]["pad"]
    was_training = model.training
    model.eval()

    def score() -> list[_Part]:
        parts = []
        uses_at = uses_in_sequence(manifest.splits[SPLIT], num_rows)
        prefetcher = Prefetcher(cache, url, manifest.splits[SPLIT].shards, uses_at, threads=1) if cache else None
        decoded = DecodedGroups(url, manifest, SPLIT, threads=1, prefetcher=prefetcher)
        try:
            for number in range(ranks.rank, -(-num_rows // micro_batch), ranks.world_size):
                rows = _read_rows(decoded, groups, number * micro_batch, min((number + 1) * micro_batch, num_rows))
                batch = pack_batch(rows, shape, pad_id).to(ranks.device)
                parts.append(_score(model, number, rows, batch, autocast))
                counts[0] += np.bincount(unmask_rows(rows).input_ids, minlength=counts.shape[1])
                if rows.masked_labels is not None:
                    counts[1] += np.bincount(rows.masked_labels, minlength=counts.shape[1])
        finally:
            decoded.close()
        return parts

    try:
        mine = ranks.agreed(score)
    finally:
        model.train(was_training)
    parts = sorted((part for of_rank in ranks.gather(mine) for part in of_rank), key=lambda part: part.number)
    totals = np.sum(ranks.gather(counts), axis=0) * ordinary
    return _scores(parts, num_rows, totals)


def _read_rows(decoded: DecodedGroups, groups: RowGroups, start: int, stop: int) -> Rows:
    row = np.arange(start, stop)
    group = np.searchsorted(groups.first_row, row, side="right") - 1
    places = Places(group, row - groups.first_row[group], row, np.zeros_like(row))
    wanted = np.unique(group).tolist()
    decoded.keep(wanted, start)
    rows = {number: decoded.get(number).result() for number in wanted}
    return gather(places, rows)


def _score(model: nn.Module, number: int, rows: Rows, batch: PackedBatch, autocast: Callable[[], Any]) -> _Part:
    with torch.no_grad(), autocast():
        sums = model(batch)
    values = (sums.mlm_loss.item(), sums.nsp_loss.item(), int(sums.mlm_right), int(sums.nsp_right))
    not_next = int(rows.next_sentence_label.sum()) if rows.next_sentence_label is not None else 0
    return _Part(number, *values, batch.masked, batch.pairs, not_next)


def _scores(parts: Sequence[_Part], num_rows: int, totals: Any) -> Scores:
    sums = {name: sum(asdict(part)[name] for part in parts) for name in asdict(parts[0])}
    masked, pairs = sums["masked"], sums["pairs"]
    if not masked:
        raise UserError("the held-out rows have no masked tokens to score; build the data set again")
    seen = totals[1] > 0
    unigram_loss = float(-(totals[1][seen] * np.log(totals[0][seen] / totals[0].sum())).sum() / masked)
    mlm_loss = sums["mlm_loss"] / masked
    return Scores(
        rows=num_rows,
        masked_tokens=masked,
        pairs=pairs,
        mlm_loss=mlm_loss,
        perplexity=math.exp(min(mlm_loss, 700.0)),
        mlm_accuracy=sums["mlm_right"] / masked,
        unigram_loss=unigram_loss,
        nsp_loss=sums["nsp_loss"] / pairs if pairs else None,
        nsp_accuracy=sums["nsp_right"] / pairs if pairs else None,
        majority_share=max(sums["not_next"], pairs - sums["not_next"]) / pairs if pairs else None,
    )


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m train.evaluate",
        description="Score a checkpoint on the held-out split of a data set. Alone, or under torchrun on many processes.",
        epilog="Exit codes: 0 done, 2 bad input (one line says what), 130 interrupted.",
    )
    parser.add_argument("--data", required=True, metavar="URL", help="the data set")
    parser.add_argument(
        "--checkpoint", required=True, metavar="URL", help="a run's folder (its newest good checkpoint) or a checkpoint's"
    )
    parser.add_argument("--micro-batch", type=int, default=32, metavar="ROWS", help="rows of a forward pass (default: 32)")
    parser.add_argument("--rows", type=int, default=0, metavar="N", help="score only the first N rows (default: 0, all)")
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "fp32", "bf16"), help="auto: bf16 on a GPU that has it (default: auto)"
    )
    parser.add_argument(
        "--cache",
        default="",
        metavar="DIR",
        help="folder on a disk that keeps shards of a data set in a bucket (default: none)",
    )
    parser.add_argument("--cache-bytes", type=parse_bytes, default=0, metavar="BYTES", help="the most that --cache may hold")
    parser.add_argument("--json", action="store_true", help="print the scores as one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command's entry."""
    interrupt_once()
    with silenced(not is_first()):
        arguments = make_parser().parse_args(argv)
    return guarded("train.evaluate", lambda: _run(arguments), quiet=not is_first())


def _run(arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.micro_batch <= 2**16 or arguments.rows < 0:
        raise UserError(
            f"--micro-batch is {arguments.micro_batch} and --rows {arguments.rows}; allowed are 1 to 65536, and 0 or more"
        )
    if not arguments.data or not arguments.checkpoint:
        raise UserError("--data or --checkpoint is empty")
    quiet()
    with joined() as ranks:
        half = use_half(arguments.precision, ranks.device)
        manifest, step, packed = ranks.agreed(lambda: _load(arguments, ranks, half))
        shards = manifest.splits[SPLIT].shards
        cache = ranks.agreed(lambda: open_cache(arguments.cache, arguments.cache_bytes, arguments.data, shards, lanes=1))
        for line in not_cached(arguments.cache, arguments.data) if ranks.rank == 0 else ():
            say(line)
        scores = evaluate(
            packed,
            arguments.data,
            manifest,
            ranks,
            arguments.micro_batch,
            arguments.rows,
            lambda: autocast(ranks.device, half),
            cache,
        )
        if ranks.rank == 0:
            text = "\n".join([f"after step {step}", *scores.lines()])
            print(json.dumps({"step": step, **finite(asdict(scores))}) if arguments.json else text)
    return 0


def _load(arguments: argparse.Namespace, ranks: Ranks, half: bool) -> tuple[Manifest, int, PackedBert]:
    manifest = open_data_set(arguments.data)
    if SPLIT not in manifest.splits:
        raise UserError(f"{arguments.data}: its manifest has no split {SPLIT}; build it again")
    check_sizes(arguments.data, manifest, SPLIT)
    found, (config, tensors) = checkpoint.locate(
        arguments.checkpoint,
        lambda c: (c.read(checkpoint.CONFIG), c.tensors(checkpoint.MODEL)),
        say if ranks.rank == 0 else lambda line: None,
    )
    if found.record["tokenizer_fingerprint"] != manifest.tokenizer["fingerprint"]:
        raise UserError(f"{arguments.checkpoint}: was trained with another tokenizer than that of {arguments.data}")
    bert = bert_of(config, tensors)
    attention.choose("auto", ranks.device, half, bert)
    check_fit(arguments.checkpoint, bert.config, manifest)
    return manifest, found.step, PackedBert(bert).to(ranks.device)


if __name__ == "__main__":
    sys.exit(main())

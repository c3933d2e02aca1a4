"""`python -m train.evaluate` (or `bert-evaluate`): how well a checkpoint predicts the held-out split. Training uses it too.

    rows of the eval split -> micro-batches, shared out to the ranks -> sums per micro-batch -> gathered, in order -> Scores

The sums are added in the order of the data, so the scores do not depend on the number of ranks.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from shards.command.console import EXIT_WRONG, Parser, guarded, interrupt_once, program, say, silenced
from shards.command.options import parse_bytes
from shards.dataset import open_data_set
from shards.errors import UserError
from shards.manifest import Manifest
from shards.schema import Rows
from train import checkpoint
from train.data.cache import Cache
from train.data.feeding import Packer
from train.data.frequencies import count_tokens, unigram_loss
from train.data.layout import Layout, Shape
from train.data.memory import require_step
from train.data.order import Places, RowGroups
from train.data.prefetch import Prefetcher, not_cached, open_cache
from train.data.reader import gather
from train.data.row_groups import DecodedGroups, check_sizes
from train.data.shard_uses import uses_in_sequence
from train.device import attention
from train.device.memory import MOST_LOGITS
from train.device.precision import stream_in_half
from train.metrics import finite
from train.models.config import check_fit
from train.models.encoder import quiet, restored_encoder
from train.models.families import family_of
from train.models.packed import PackedEncoder
from train.ranks import LostRankError, Ranks, autocast, is_first, joined, use_half
from train.settings import Precision
from train.stopping import end_at_once

SPLIT, TRAINING_SPLIT = "eval", "train"

# The scores that are means: name, sum to divide, and what it is divided by. Losses are in nats.
_MEANS = (
    ("mlm_loss", "mlm_loss", "masked_tokens"),
    ("mlm_accuracy", "mlm_right", "masked_tokens"),
    ("unigram_loss", "unigram_loss", "masked_tokens"),
    ("nsp_loss", "nsp_loss", "pairs"),
    ("nsp_accuracy", "nsp_right", "pairs"),
    ("majority_share", "majority", "pairs"),
)


@dataclass(frozen=True)
class Scores:
    """Scores of held-out rows by name. NSP's are None where the data set has no pairs."""

    values: Mapping[str, float | None]

    def lines(self) -> Iterator[str]:
        """The scores for people."""
        score: dict[str, Any] = dict(self.values)
        yield f"held out: {score['rows']:,} rows, {score['masked_tokens']:,} masked tokens, {score['pairs']:,} pairs"
        yield (
            f"    MLM loss {score['mlm_loss']:.4f}, perplexity {score['perplexity']:.5g}, accuracy {score['mlm_accuracy']:.1%}"
        )
        gain = score["unigram_loss"] - score["mlm_loss"]
        yield (
            f"    unigram cross-entropy {score['unigram_loss']:.4f}, by the training split's frequencies: "
            f"the model is {abs(gain):.4f} nats {'better' if gain >= 0 else 'worse'}"
        )
        if score["nsp_loss"] is not None:
            yield (
                f"    NSP loss {score['nsp_loss']:.4f}, accuracy {score['nsp_accuracy']:.1%}; "
                f"always giving the commoner answer: {score['majority_share']:.1%}"
            )


@dataclass(frozen=True)
class _Part:
    """One micro-batch: its number, its sums by name, and how often each token was to be predicted [vocab_size]."""

    number: int
    sums: dict[str, float]
    targets: npt.NDArray[np.int64]


class HeldOut:
    """The held-out split of a data set, to score models on. On every rank."""

    def __init__(
        self,
        url: str,
        manifest: Manifest,
        ranks: Ranks,
        micro_batch: int,
        layout: Layout,
        cache: Cache | None,
        ignores_pairs: bool = False,
    ) -> None:
        self._url, self._manifest, self._ranks, self._cache = url, manifest, ranks, cache
        self._groups = RowGroups.of(manifest.splits[SPLIT])
        self._shape = Shape.of(manifest, SPLIT, micro_batch, None, ignores_pairs)
        self._packer = Packer(self._shape, manifest.tokenizer["special_ids"]["pad"], layout, ranks.device)
        self._training_counts: npt.NDArray[np.int64] | None = None  # counted once, for the first scores

    def score(self, model: nn.Module, max_rows: int, autocast: Callable[[], Any]) -> Scores:
        """Scores the first `max_rows` rows (0: all). Raises UserError, on every rank, when it cannot."""
        num_rows = min(max_rows or self._groups.num_rows, self._groups.num_rows)
        if not num_rows:
            raise UserError(f"{self._url}: has no held-out split; build it with --eval-fraction above 0")
        was_training = model.training
        model.eval()
        try:
            own_parts = self._ranks.agreed(lambda: list(self._score_batches(model, num_rows, autocast)))
        finally:
            model.train(was_training)
        parts = sorted((part for of_rank in self._ranks.gather(own_parts) for part in of_rank), key=lambda part: part.number)
        sums = {name: sum(part.sums[name] for part in parts) for name in parts[0].sums}
        targets = np.sum([part.targets for part in parts], axis=0)
        return _scores(sums | {"rows": num_rows, "unigram_loss": self._unigram_loss(targets)})

    def _score_batches(self, model: nn.Module, num_rows: int, autocast: Callable[[], Any]) -> Iterator[_Part]:
        """This rank's micro-batches. Ranks do not communicate here."""
        url, manifest, size = self._url, self._manifest, self._shape.rows
        uses_at = uses_in_sequence(manifest.splits[SPLIT], num_rows)
        prefetcher = None
        if self._cache:
            prefetcher = Prefetcher(self._cache, [(url, manifest.splits[SPLIT].shards)], uses_at, threads=1)
        decoded = DecodedGroups(url, manifest, SPLIT, threads=1, prefetcher=prefetcher)
        try:
            for number in range(self._ranks.rank, -(-num_rows // size), self._ranks.world_size):
                rows = _read_rows(decoded, self._groups, number * size, min((number + 1) * size, num_rows))
                yield self._score_batch(model, number, rows, autocast)
        finally:
            decoded.close()

    def _score_batch(self, model: nn.Module, number: int, rows: Rows, autocast: Callable[[], Any]) -> _Part:
        tokenizer = self._manifest.tokenizer
        batch = self._packer.pack(rows)
        self._packer.receive([batch])
        with torch.no_grad(), autocast():
            model_sums = model(batch)
        sums = {
            "mlm_loss": model_sums.mlm_loss.item(),
            "nsp_loss": model_sums.nsp_loss.item(),
            "mlm_right": int(model_sums.mlm_right),
            "nsp_right": int(model_sums.nsp_right),
            "masked_tokens": batch.masked,
            "pairs": batch.pairs,
            "not_next": int(rows.next_sentence_label.sum()) if rows.next_sentence_label is not None else 0,
        }
        labels = rows.masked_labels if rows.masked_labels is not None else np.empty(0, np.int64)
        return _Part(number, sums, np.bincount(labels, minlength=tokenizer["vocab_size"]))

    def _unigram_loss(self, targets: npt.NDArray[np.int64]) -> float:
        """The baseline: the loss of predicting each masked token by its frequency in the training split."""
        ranks, manifest = self._ranks, self._manifest
        if self._training_counts is None:
            own_counts = ranks.agreed(lambda: count_tokens(self._url, manifest, TRAINING_SPLIT, ranks.rank, ranks.world_size))
            self._training_counts = np.sum(ranks.gather(own_counts), axis=0)
        is_ordinary = np.ones(len(targets), np.bool_)
        is_ordinary[list(manifest.tokenizer["special_ids"].values())] = False
        return unigram_loss(targets, self._training_counts, is_ordinary)


def _read_rows(decoded: DecodedGroups, groups: RowGroups, start: int, stop: int) -> Rows:
    row = np.arange(start, stop)
    group = np.searchsorted(groups.first_row, row, side="right") - 1
    places = Places(group, row - groups.first_row[group], row, np.zeros_like(row), np.zeros(len(row), np.int32))
    needed = np.unique(group).tolist()
    decoded.keep(needed, start)
    return gather(places, {number: decoded.get(number).result() for number in needed})


def _scores(sums: Mapping[str, float]) -> Scores:
    """The table of means, and what follows from them."""
    if not sums["masked_tokens"]:
        raise UserError("the held-out rows have no masked tokens to score; build the data set again")
    sums = {**sums, "majority": max(sums["not_next"], sums["pairs"] - sums["not_next"])}
    means = {name: sums[total] / sums[count] if sums[count] else None for name, total, count in _MEANS}
    perplexity = math.exp(min(means["mlm_loss"] or 0.0, 700.0))  # a larger exponent overflows
    return Scores({name: sums[name] for name in ("rows", "masked_tokens", "pairs")} | means | {"perplexity": perplexity})


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog=program("bert-evaluate", "train.evaluate"),
        description="Score a checkpoint on the held-out split of a data set, on one process or under torchrun on several.",
        epilog="Exit codes: 0 done, 1 another process was lost, 2 bad input (one line names it), 130 interrupted.",
    )
    parser.add_argument("--data", required=True, metavar="URL", help="the data set")
    parser.add_argument(
        "--checkpoint", required=True, metavar="URL", help="folder of a run (its newest good checkpoint) or of a checkpoint"
    )
    parser.add_argument("--micro-batch", type=int, default=32, metavar="ROWS", help="rows per forward pass (default: 32)")
    parser.add_argument("--rows", type=int, default=0, metavar="N", help="score only the first N rows (default: 0, all)")
    parser.add_argument(
        "--precision", default="auto", choices=get_args(Precision), help="auto: bf16 on a GPU that has it (default: auto)"
    )
    parser.add_argument(
        "--cache", default="", metavar="DIR", help="folder on a local disk that keeps shards from a bucket (default: none)"
    )
    parser.add_argument("--cache-bytes", type=parse_bytes, default=0, metavar="BYTES", help="maximum size of --cache")
    parser.add_argument("--json", action="store_true", help="print the scores as one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    end_at_once()
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
    try:
        return _evaluate(arguments)
    except LostRankError as error:
        say(f"train.evaluate: {error}; run the same command again")
        return EXIT_WRONG


def _evaluate(arguments: argparse.Namespace) -> int:
    with joined() as ranks:
        interrupt_once()
        half = use_half(arguments.precision, ranks.device)
        manifest, saved, packed = ranks.agreed(lambda: _load(arguments, ranks, half))
        step, layout, ignores_pairs = saved.step, attention.layout_of(packed.encoder), _ignores_pairs(saved, packed)
        shards = manifest.splits[SPLIT].shards
        cache = ranks.agreed(lambda: open_cache(arguments.cache, arguments.cache_bytes, [(arguments.data, shards)], [1]))
        for line in not_cached(arguments.cache, arguments.data) if ranks.rank == 0 else ():
            say(line)
        held_out = HeldOut(arguments.data, manifest, ranks, arguments.micro_batch, layout, cache, ignores_pairs)
        scores = held_out.score(packed, arguments.rows, lambda: autocast(ranks.device, half))
        if ranks.rank == 0:
            text = "\n".join([f"after step {step}", *scores.lines()])
            print(json.dumps({"step": step, **finite(scores.values)}) if arguments.json else text)
    return 0


def _load(arguments: argparse.Namespace, ranks: Ranks, half: bool) -> tuple[Manifest, checkpoint.Checkpoint, PackedEncoder]:
    manifest = open_data_set(arguments.data)
    for split in (SPLIT, TRAINING_SPLIT):
        if split not in manifest.splits:
            raise UserError(f"{arguments.data}: its manifest has no split {split}; build it again")
        check_sizes(arguments.data, manifest, split)
    saved, (config, tensors) = checkpoint.locate(
        arguments.checkpoint,
        lambda c: (c.read(checkpoint.CONFIG), c.tensors(checkpoint.MODEL)),
        say if ranks.rank == 0 else lambda line: None,
    )
    if saved.record["tokenizer_fingerprint"] != manifest.tokenizer["fingerprint"]:
        raise UserError(f"{arguments.checkpoint}: was trained with another tokenizer than that of {arguments.data}")
    encoder = restored_encoder(config, tensors, saved.url)
    attention.choose("auto", ranks.device, half, encoder)
    if half:
        stream_in_half(encoder)
    packed = PackedEncoder(encoder)
    packed.most_logits = MOST_LOGITS if ranks.device.type == "cuda" else None
    check_fit(arguments.checkpoint, encoder.config, manifest, _ignores_pairs(saved, packed))
    if ranks.device.type == "cpu":
        shape, model = Shape.of(manifest, SPLIT, arguments.micro_batch, None), encoder.config
        require_step(arguments.data, shape, model.vocab_size, model.hidden_size, num_layers=1, num_processes=len(ranks.local))
    return manifest, saved, packed.to(ranks.device)


def _ignores_pairs(saved: checkpoint.Checkpoint, packed: PackedEncoder) -> bool:
    """Whether the model was trained on masked tokens alone, or cannot be trained otherwise."""
    has_head = family_of(packed.encoder.config).pair_head is not None
    return not has_head or bool(saved.record["settings"].get("ignore_pairs", False))


if __name__ == "__main__":
    sys.exit(main())

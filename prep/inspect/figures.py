"""The figures of a data set, from its manifest and a sample of its rows: pure functions, nothing is read or said here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from prep.inspect.sample import Actions, Counts, Sample
from prep.inspect.token_texts import TokenText
from shards.manifest import Manifest
from shards.masking import Masking

_Z = 1.959964
"""Of a two-sided interval of 95 %."""
NUM_BINS_OF_LENGTHS = (4, 8)
_COMMON_TOKENS = 12


@dataclass(frozen=True)
class Rate:
    """A share that was counted, its 95 % interval, and what was asked for."""

    share: float
    low: float
    high: float
    of: int
    asked: float

    @property
    def is_off(self) -> bool:
        """Whether neither chance (twice the interval) nor rounding (half a per cent) explains it."""
        return abs(self.share - self.asked) > max(0.005, self.high - self.low)


@dataclass(frozen=True)
class Overview:
    """All that the report says in numbers. Of the splits, `train` where nothing else is said."""

    url: str
    manifest: Manifest
    settings: Mapping[str, Any]  # with those that older releases did not have
    samples: Mapping[str, Sample]
    texts: Mapping[int, TokenText]
    not_next: Rate | None  # of the pairs that had a choice; None where there are no labels
    actions: Mapping[str, Rate]  # mask, random, kept; empty where the sample holds no masks
    actions_split: str
    masked_share: float | None
    expected_masked_share: float
    padding: tuple[tuple[str, float], ...]
    unknown_share: float
    copied_share: float

    @property
    def totals(self) -> dict[str, int]:
        """Of the split `train`."""
        return self.manifest.splits["train"].totals()


def make_overview(url: str, manifest: Manifest, samples: Mapping[str, Sample], texts: Mapping[int, TokenText]) -> Overview:
    """The figures. `samples`: of each split that is not empty."""
    settings, ledger, totals = manifest.settings, manifest.ledger, manifest.splits["train"].totals()
    masks_in = "train" if totals["masked_tokens"] else "eval"
    masks = samples.get(masks_in)
    duplicates = ledger["duplicates"]
    return Overview(
        url=url,
        manifest=manifest,
        settings=settings,
        samples=samples,
        texts=texts,
        not_next=_not_next(totals) if samples["train"].has_labels else None,
        actions=_actions(masks, settings, manifest.tokenizer) if masks and masks.mask.masked else {},
        actions_split=masks_in,
        masked_share=totals["masked_tokens"] / totals["tokens"] if totals["masked_tokens"] else None,
        expected_masked_share=_expected_masked_share(manifest, samples["train"].sequence_lengths),
        padding=tuple(padding(totals, settings, samples["train"].sequence_lengths)),
        unknown_share=ledger["unknown_tokens"] / max(1, ledger["tokens"]),
        copied_share=1 - duplicates["different"] / duplicates["sampled"] if duplicates["sampled"] else 0.0,
    )


def _not_next(totals: Mapping[str, int]) -> Rate:
    choices = totals["sequences"] - totals["forced_not_next"]
    return wilson(totals["not_next"] - totals["forced_not_next"], choices, 0.5) if choices else Rate(0.0, 0.0, 1.0, 0, 0.5)


def _actions(sample: Sample, settings: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> dict[str, Rate]:
    """What became of masked tokens. A random token may be the one that was there: it cannot be told from one that stayed."""
    mask, random = settings["mask_replace_prob"], settings["random_replace_prob"]
    same = random / max(1, tokenizer["vocab_size"] - len({*tokenizer["special_ids"].values()}))
    kept = 1.0 - mask - random + same
    asked = {"mask": (sample.mask, mask), "random": (sample.random, random - same), "kept": (sample.kept, kept)}
    return {name: clustered(actions, share) for name, (actions, share) in asked.items()}


def wilson(hits: int, of: int, asked: float) -> Rate:
    """A share of independent draws, with the interval of Wilson 1927."""
    share, z2 = hits / of, _Z * _Z / of
    centre, half = share + z2 / 2, _Z * math.sqrt(share * (1 - share) / of + z2 / (4 * of))
    return Rate(share, (centre - half) / (1 + z2), (centre + half) / (1 + z2), of, asked)


def clustered(actions: Actions, asked: float) -> Rate:
    """A share of draws that are independent between sequences only: the ratio of two sums, with its linearized variance."""
    share = actions.hits / actions.masked
    squares = actions.hits_squared - 2 * share * actions.hits_masked + share * share * actions.masked_squared
    half = _Z * math.sqrt(max(0.0, squares)) / actions.masked
    return Rate(share, max(0.0, share - half), min(1.0, share + half), actions.masked, asked)


def _expected_masked_share(manifest: Manifest, lengths: Counts) -> float:
    """What rounding in each sequence makes of `mask_prob`, in sequences of these lengths."""
    tokenizer = manifest.tokenizer
    special = tokenizer["special_ids"]
    rule = Masking(manifest.settings["mask_prob"], tokenizer["vocab_size"], tuple(special.values()), special["mask"])
    return float((rule.counts(len(lengths) - 1) * lengths).sum() / max(1, (np.arange(len(lengths)) * lengths).sum()))


def padding(totals: Mapping[str, int], settings: Mapping[str, Any], lengths: Counts) -> list[tuple[str, float]]:
    """The share of token slots that hold padding: as the data set is, and as other layouts of its sequences would be."""
    longest, tokens, sequences = settings["max_seq_len"], totals["tokens"], totals["sequences"]
    packed = settings["pack_to"] > 0
    capacity = settings["pack_to"] or longest
    name = f"this data set: packed to {capacity}" if packed else f"this data set: each padded to {capacity}"
    alone = [length for length in sorted({longest, max(512, longest)}) if packed or length != longest]
    return [
        (name, 1 - tokens / (totals["rows"] * capacity)),
        *((f"in {count} bins of length", binned_padding(lengths, longest, count)) for count in NUM_BINS_OF_LENGTHS),
        *((f"each padded to {length}", 1 - tokens / (sequences * length)) for length in alone),
    ]


def binned_padding(lengths: Counts, longest: int, bins: int) -> float:
    """Padding when each sequence is padded to the end of its bin, of `bins` equally wide ones up to `longest`."""
    every = np.arange(len(lengths))
    width = longest / bins
    padded = np.ceil(np.ceil(every / width) * width)
    slots = float((padded * lengths).sum())
    return 1 - float((every * lengths).sum()) / slots if slots else 0.0


def most(counts: Counts, texts: Mapping[int, TokenText], left_out: Mapping[str, int]) -> list[tuple[str, int]]:
    """The tokens with the highest counts, special ones left out; `##` before one that goes on in a word."""
    counts = counts.copy()
    counts[list(left_out.values())] = 0
    order = [int(number) for number in np.argsort(-counts, kind="stable")[:_COMMON_TOKENS] if counts[number]]
    tokens = [texts.get(number, TokenText("?", False, False)) for number in order]
    return [(f"{'##' * token.goes_on}{token.text}", int(counts[number])) for number, token in zip(order, tokens, strict=True)]

"""The figures of a data set, from its manifest and a sample of its rows: pure functions without I/O or text."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from prep.inspect.passages import UNKNOWN, TokenText
from prep.inspect.sample import Actions, Sample, SampleCounts
from shards.manifest import Manifest
from shards.masking import Masking

# Standard deviations in half of a two-sided interval of 95 %.
_Z = 1.959964
NUM_BINS_OF_LENGTHS = (4, 8)
_MAX_FREQUENT_TOKENS = 12


@dataclass(frozen=True)
class Rate:
    """A measured share of `of` draws, its 95 % interval, and the share that the settings give (`target`)."""

    share: float
    low: float
    high: float
    of: int
    target: float

    @property
    def is_off(self) -> bool:
        """Whether neither chance (twice the half-width of the interval) nor rounding (half a percentage point) explains it."""
        return abs(self.share - self.target) > max(0.005, self.high - self.low)


@dataclass(frozen=True)
class Overview:
    """All figures of the report. They describe the split `train` unless they say otherwise."""

    url: str
    manifest: Manifest
    samples: Mapping[str, Sample]
    texts: Mapping[int, TokenText]
    not_next: Rate | None  # of the pairs that had a choice; None if there are no labels
    actions: Mapping[str, Rate]  # mask, random, kept; empty if the sample holds no masks
    actions_split: str
    masked_share: float | None
    expected_masked_share: float
    padding: tuple[tuple[str, float], ...]
    unknown_share: float
    copied_share: float

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the data set."""
        return self.manifest.settings

    @property
    def totals(self) -> dict[str, int]:
        """Totals of the split `train`."""
        return self.manifest.splits["train"].totals()


def make_overview(url: str, manifest: Manifest, samples: Mapping[str, Sample], texts: Mapping[int, TokenText]) -> Overview:
    """The figures. `samples` has an entry for each split that is not empty."""
    settings, ledger, totals = manifest.settings, manifest.ledger, manifest.splits["train"].totals()
    masks_in = "train" if totals["masked_tokens"] else "eval"
    masks = samples.get(masks_in)
    duplicates = ledger["duplicates"]
    return Overview(
        url=url,
        manifest=manifest,
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
    """The rate of each action on masked tokens. A random token may equal the original one; it then counts as kept."""
    mask, random = settings["mask_replace_prob"], settings["random_replace_prob"]
    same = random / max(1, tokenizer["vocab_size"] - len({*tokenizer["special_ids"].values()}))
    kept = 1.0 - mask - random + same
    targets = {"mask": (sample.mask, mask), "random": (sample.random, random - same), "kept": (sample.kept, kept)}
    return {name: clustered(actions, share) for name, (actions, share) in targets.items()}


def wilson(hits: int, of: int, target: float) -> Rate:
    """A share of independent draws, with its interval (Wilson 1927)."""
    share, z2 = hits / of, _Z * _Z / of
    centre, half = share + z2 / 2, _Z * math.sqrt(share * (1 - share) / of + z2 / (4 * of))
    return Rate(share, (centre - half) / (1 + z2), (centre + half) / (1 + z2), of, target)


def clustered(actions: Actions, target: float) -> Rate:
    """A share of draws that are independent between sequences only: a ratio of two sums, with its linearized variance."""
    share = actions.hits / actions.masked
    squares = actions.hits_squared - 2 * share * actions.hits_masked + share * share * actions.masked_squared
    half = _Z * math.sqrt(max(0.0, squares)) / actions.masked
    return Rate(share, max(0.0, share - half), min(1.0, share + half), actions.masked, target)


def _expected_masked_share(manifest: Manifest, lengths: SampleCounts) -> float:
    """The masked share that `mask_prob` gives after rounding in each sequence; `lengths[n]` sequences have n tokens."""
    tokenizer = manifest.tokenizer
    special = tokenizer["special_ids"]
    rule = Masking(manifest.settings["mask_prob"], tokenizer["vocab_size"], tuple(special.values()), special["mask"])
    return float((rule.counts(len(lengths) - 1) * lengths).sum() / max(1, (np.arange(len(lengths)) * lengths).sum()))


def padding(totals: Mapping[str, int], settings: Mapping[str, Any], lengths: SampleCounts) -> list[tuple[str, float]]:
    """(layout, share of token slots that hold padding): of the data set, and of other layouts of the same sequences."""
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


def binned_padding(lengths: SampleCounts, longest: int, bins: int) -> float:
    """Share of padding if each sequence is padded to the end of its bin. `bins` equally wide bins end at `longest` tokens."""
    tokens = np.arange(len(lengths))
    width = longest / bins
    padded = np.ceil(np.ceil(tokens / width) * width)
    slots = float((padded * lengths).sum())
    return 1 - float((tokens * lengths).sum()) / slots if slots else 0.0


def most_frequent(
    counts: SampleCounts, texts: Mapping[int, TokenText], special_ids: Mapping[str, int]
) -> list[tuple[str, int]]:
    """(text, count) of the most frequent tokens without the special ones; `##` begins a token that continues a word."""
    counts = counts.copy()
    counts[list(special_ids.values())] = 0
    order = [int(number) for number in np.argsort(-counts, kind="stable")[:_MAX_FREQUENT_TOKENS] if counts[number]]
    tokens = [texts.get(number, UNKNOWN) for number in order]
    return [
        (f"{'##' * token.continues_word}{token.text}", int(counts[number])) for number, token in zip(order, tokens, strict=True)
    ]

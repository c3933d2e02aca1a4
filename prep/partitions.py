"""The counts of the partitions -> the held-out split, and the key ranges that one pair task builds each."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from prep.plan import Plan
from prep.records import UnitRecord
from shards.errors import UserError

MIN_DOCUMENTS = 64
"""A partition with fewer is merged with the next, where the corpus allows."""
MAX_TOKENS = 64 << 20
"""A partition with more is built in several key ranges: a task's memory is a multiple of this."""
MIN_HELD_OUT = 8
_HASHES = 1 << 64


@dataclass(frozen=True)
class HeldOut:
    """Documents with a content hash below `hash_below` are held out; `everywhere`: they lie in train partitions too."""

    hash_below: int
    everywhere: bool
    documents: int


def held_out_below(eval_fraction: float) -> int:
    """The content hash below which documents go to the held-out partitions when they are tokenized."""
    return int(eval_fraction * _HASHES)


def hold_out(total: UnitRecord, eval_fraction: float, least: int) -> HeldOut:
    """Which documents are held out: the fraction with the smallest content hashes, at least MIN_HELD_OUT different ones.

    Of a corpus of fewer than twice as many different documents, half. Raises UserError where not `least` different ones are
    left in a split: 2 for pairs with other documents, else 1.
    """
    distinct = sorted(total.sketch)
    if len(distinct) < (2 * least if eval_fraction else least):
        needed = f"{2 * least} different documents are needed, or {least} with --eval-fraction 0"
        raise UserError(
            f"the corpus has {total.used_documents} documents, {len(distinct)} of them different: too few for this pairing; "
            f"{needed if eval_fraction else f'{least} needed'}; does --document say where a document ends?"
        )
    if not eval_fraction:
        return HeldOut(0, False, 0)
    hash_below = held_out_below(eval_fraction)
    wanted = min(MIN_HELD_OUT, len(distinct) // 2)
    everywhere = sum(value < hash_below for value in distinct) < wanted
    if everywhere:
        hash_below = distinct[wanted - 1] + 1
    rest = sum(value >= hash_below for value in distinct)
    if rest < least and total.used_documents - sum(total.sketch.values()) < least:
        raise UserError(f"--eval-fraction {eval_fraction} leaves {rest} documents to train on; lower it")
    return HeldOut(hash_below, everywhere, wanted if everywhere else sum(value < hash_below for value in distinct))


def plan_pair_tasks(total: UnitRecord, held_out: HeldOut, plan: Plan, copies: int) -> list[dict[str, Any]]:
    """The fields of a PairTask that say which documents it builds, train first, in order."""
    train_end = plan.num_partitions
    end = train_end + plan.num_eval_partitions
    tasks = [
        {"split": "train", "copy": copy, "hash_from": held_out.hash_below, "hash_below": _HASHES, **keys}
        for first, last in _merge(total.bucket_documents, 0, train_end)
        for copy in range(copies)
        for keys in _split(total.bucket_tokens, first, last)
    ]
    if held_out.hash_below:
        runs = [(0, end)] if held_out.everywhere else list(_merge(total.bucket_documents, train_end, end))
        tasks += [
            {"split": "eval", "copy": 0, "hash_from": 0, "hash_below": held_out.hash_below, **keys}
            for first, last in runs
            for keys in _split(total.bucket_tokens, first, last, 1 if held_out.everywhere else None)
        ]
    return tasks


def _merge(documents: list[int], first: int, end: int) -> Iterator[tuple[int, int]]:
    """Runs of buckets in [first, end) with at least MIN_DOCUMENTS each; what is left at the end joins the last run."""
    edges = [first]
    count = 0
    for bucket in range(first, end):
        count += documents[bucket]
        if count >= MIN_DOCUMENTS:
            edges.append(bucket + 1)
            count = 0
    if len(edges) == 1:
        edges.append(end)
    edges[-1] = end
    yield from pairwise(edges)


def _split(tokens: list[int], first: int, last: int, count: int | None = None) -> Iterator[dict[str, int]]:
    num_key_ranges = count or max(1, math.ceil(sum(tokens[first:last]) / MAX_TOKENS))
    for key_range in range(num_key_ranges):
        yield {"first_bucket": first, "last_bucket": last, "key_range": key_range, "num_key_ranges": num_key_ranges}

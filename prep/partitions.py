"""The partitions, once their documents are counted -> the held-out split and the documents of each pair task.

buckets  0 1 2 | 3 4 5 6 | 7 ...     small ones are merged until MIN_DOCUMENTS are together
partition  0        1      2         one with more than MAX_TOKENS is cut into key ranges
pair task  0      1   2    3         per partition, key range and copy
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from prep.plan import Plan
from prep.records import UnitRecord
from shards.errors import UserError

MIN_DOCUMENTS = 64  # a partition with fewer is merged with the next, where the corpus allows
MAX_TOKENS = 64 << 20  # a partition with more has several key ranges: the memory of a task is a multiple of this
MIN_HELD_OUT = 8  # documents
_HASHES = 1 << 64


@dataclass(frozen=True)
class HeldOut:
    """Documents with a content hash below `hash_below` are held out; `everywhere`: train partitions hold some of them too."""

    hash_below: int
    everywhere: bool
    documents: int


def held_out_below(eval_fraction: float) -> int:
    """The content hash below which documents go to the held-out partitions when they are tokenized."""
    return int(eval_fraction * _HASHES)


def hold_out(total: UnitRecord, eval_fraction: float, min_documents: int) -> HeldOut:
    """Which documents are held out: the fraction with the smallest content hashes, at least MIN_HELD_OUT different ones.

    If the corpus has fewer than twice that many different documents, half of them are. `min_documents` is the number of
    different documents that a split needs: 2 for pairs with other documents, else 1. Raises UserError if a split gets fewer.
    """
    distinct = sorted(total.sketch)
    if len(distinct) < (2 * min_documents if eval_fraction else min_documents):
        needed = f"{2 * min_documents} different documents are needed, or {min_documents} with --eval-fraction 0"
        raise UserError(
            f"the corpus has {total.used_documents} documents, {len(distinct)} of them different: too few for this pairing; "
            f"{needed if eval_fraction else f'{min_documents} needed'}; check that --document fits the corpus"
        )
    if not eval_fraction:
        return HeldOut(0, False, 0)
    hash_below = held_out_below(eval_fraction)
    least_held_out = min(MIN_HELD_OUT, len(distinct) // 2)
    everywhere = sum(value < hash_below for value in distinct) < least_held_out
    if everywhere:
        hash_below = distinct[least_held_out - 1] + 1
    rest = sum(value >= hash_below for value in distinct)
    if rest < min_documents and total.used_documents - sum(total.sketch.values()) < min_documents:
        raise UserError(f"--eval-fraction {eval_fraction} leaves {rest} documents to train on; lower it")
    return HeldOut(hash_below, everywhere, least_held_out if everywhere else sum(value < hash_below for value in distinct))


class TaskDocuments(NamedTuple):
    """Which documents a pair task takes: see PairTask, whose fields these are."""

    split: str
    copy: int
    first_bucket: int
    last_bucket: int
    hash_from: int
    hash_below: int
    key_range: int
    num_key_ranges: int


def plan_pairs(total: UnitRecord, held_out: HeldOut, plan: Plan, copies: int) -> list[TaskDocuments]:
    """The documents of each pair task, in order, the train split first."""
    train_end = plan.num_partitions
    end = train_end + plan.num_eval_partitions
    tasks = [
        TaskDocuments("train", copy, first, last, held_out.hash_below, _HASHES, key_range, num_key_ranges)
        for first, last in _merge(total.bucket_documents, 0, train_end)
        for copy in range(copies)
        for key_range, num_key_ranges in _key_ranges(total.bucket_tokens[first:last])
    ]
    if not held_out.hash_below:
        return tasks
    if held_out.everywhere:  # a few documents of the whole corpus: one task finds them all
        return [*tasks, TaskDocuments("eval", 0, 0, end, 0, held_out.hash_below, 0, 1)]
    tasks += [
        TaskDocuments("eval", 0, first, last, 0, held_out.hash_below, key_range, num_key_ranges)
        for first, last in _merge(total.bucket_documents, train_end, end)
        for key_range, num_key_ranges in _key_ranges(total.bucket_tokens[first:last])
    ]
    return tasks


def _merge(documents: list[int], first: int, end: int) -> Iterator[tuple[int, int]]:
    """Runs of buckets in [first, end) with at least MIN_DOCUMENTS each; a rest at the end joins the last run."""
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


def _key_ranges(bucket_tokens: list[int]) -> Iterator[tuple[int, int]]:
    """The number of each key range of a partition, and how many there are."""
    num_key_ranges = max(1, math.ceil(sum(bucket_tokens) / MAX_TOKENS))
    yield from ((key_range, num_key_ranges) for key_range in range(num_key_ranges))

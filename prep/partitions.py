"""Units whose documents are counted -> the held-out split, the documents of each pair task, and the exchange between them.

places   0 ............................... train_end ....... 2**64     of documents in the token store
split    train                             eval                        (a small corpus: eval takes a few of all)
tasks    0      1      2      3      ...   n       n + 1               partitions: ranges of places; times the copies

one level    unit -> pair task          each task reads a range of each unit
two levels   unit -> merge -> pair      units in groups, places in ranges: one file for each group and range
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from prep.records import UnitRecord
from prep.settings import ExchangeName
from prep.tokens.store import LAST_PLACE, Places
from shards.errors import UserError

MIN_DOCUMENTS = 96  # of a partition, about, where the corpus allows
MAX_TOKENS = 64 << 20  # of a partition, about: the memory of a task is a multiple of this
MERGE_BYTES = 384 << 20  # of a file that a merge task writes, as planned: it holds this twice
# The build keeps the planned exchange while what it counts differs by no more than this factor.
PLAN_ERROR = 1.5
# A request takes as long as moving so many bytes, on a disk and over a network.
_LOCAL_REQUEST_BYTES, _REQUEST_BYTES = 20_000, 200_000
# The smallest part of the places that an index can tell, and how many of them a range has at least, to begin at one.
_PART, _FINE = 1 << 48, 16
MIN_HELD_OUT = 8  # documents
_HASHES = 1 << 64


@dataclass(frozen=True)
class HeldOut:
    """Documents with a content hash below `hash_below` are held out; `everywhere`: some have places of the train split."""

    hash_below: int
    everywhere: bool
    documents: int


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
    hash_below = Places.make(eval_fraction).held_out_below
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
    first: int
    last: int
    hash_from: int
    hash_below: int


def plan_pairs(
    total: UnitRecord, held_out: HeldOut, num_partitions: int, eval_fraction: float, copies: int
) -> list[TaskDocuments]:
    """The documents of each pair task, in order, the train split first. `num_partitions` as planned."""
    train_end = Places.make(eval_fraction).train_end
    num_train = num_ranges(total, num_partitions)
    tasks = [
        TaskDocuments("train", copy, first, last, held_out.hash_below, _HASHES)
        for first, last in divide(0, train_end, num_train)
        for copy in range(copies)
    ]
    if not held_out.hash_below:
        return tasks
    if held_out.everywhere:  # a few documents of the whole corpus: one task finds them all
        return [*tasks, TaskDocuments("eval", 0, 0, LAST_PLACE, 0, held_out.hash_below)]
    num_eval = math.ceil(num_train * eval_fraction)
    return tasks + [
        TaskDocuments("eval", 0, first, last, 0, held_out.hash_below)
        for first, last in divide(train_end, LAST_PLACE + 1, num_eval)
    ]


def num_ranges(total: UnitRecord, num_partitions: int) -> int:
    """The number of partitions of the train split: as planned, more if they have too many tokens, fewer if the documents are
    too few.
    """
    enough = max(num_partitions, math.ceil(total.tokens / MAX_TOKENS))
    return max(1, min(enough, total.stored_documents // MIN_DOCUMENTS))


def divide(start: int, stop: int, count: int) -> Iterator[tuple[int, int]]:
    """The places [start, stop) in `count` ranges, each as its first and its last place.

    Where all are large, they begin at parts of the index of a large file, so that no document is read twice.
    """
    edges = [start + (stop - start) * number // count for number in range(count + 1)]
    if (stop - start) // count >= _FINE * _PART:
        edges = [start, *(edge // _PART * _PART for edge in edges[1:-1]), stop]
    yield from ((first, end - 1) for first, end in pairwise(edges))


class Exchange(NamedTuple):
    """How tokens come from units to partitions: `num_groups` of units and `num_ranges` of places are merged in between.

    Both are 0 where each pair task reads from each unit.
    """

    num_groups: int
    num_ranges: int


ONE_LEVEL = Exchange(0, 0)


class Volume(NamedTuple):
    """What an exchange moves: from how many units to how many pair tasks, and how many bytes of the token store."""

    num_units: int
    num_pairs: int
    stored_bytes: int


def planned_or_counted(planned: Volume, counted: Volume) -> Volume:
    """The volume that a build chooses its exchange by: the planned one, so that it makes the requests that the plan announces.

    Groups and ranges are small whole numbers: 1 % more bytes can change them, and the requests by a third. A figure of the
    plan that is wrong by more than PLAN_ERROR does not count, so a merged file has at most PLAN_ERROR * MERGE_BYTES.
    """
    pairs = zip(planned, counted, strict=True)
    is_near = all(count <= plan * PLAN_ERROR and plan <= count * PLAN_ERROR for plan, count in pairs)
    return planned if is_near else counted


def choose_exchange(choice: ExchangeName, volume: Volume, is_local: bool) -> Exchange:
    """The exchange that costs less, where a request costs as much as moving some bytes.

    Neither changes the data. With two levels, the merged files have at most about MERGE_BYTES, and both halves make the
    same number of requests, which grows as n * sqrt(n) with the size of the corpus.
    """
    num_units, num_pairs, stored_bytes = volume
    num_files = max(1, math.ceil(stored_bytes / MERGE_BYTES))
    ranges = max(2, round(math.sqrt(num_pairs * num_files / num_units)))
    groups = min(max(2, math.ceil(num_files / ranges)), num_units)
    two_level = Exchange(groups, ranges)
    if choice == "auto":
        extra = 2 * stored_bytes / (_LOCAL_REQUEST_BYTES if is_local else _REQUEST_BYTES)
        requests = num_units * ranges + num_pairs * groups + extra / 2
        choice = "two-level" if requests < num_units * num_pairs else "one-level"
    return two_level if choice == "two-level" else ONE_LEVEL


def merges(exchange: Exchange, num_units: int) -> Iterator[tuple[int, int, int, int]]:
    """The first and last unit of each merge task, and its first and last place. A group has at least one unit."""
    count = min(exchange.num_groups, num_units)
    edges = [num_units * group // count for group in range(count + 1)] if count else []
    for first_unit, end in pairwise(edges):
        for first, last in divide(0, LAST_PLACE + 1, exchange.num_ranges):
            yield first_unit, end - 1, first, last

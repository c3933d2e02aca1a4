"""Streams of batches, and what is in them, for tests."""

from pathlib import Path
from typing import Any

from train.stream import ShardStream

NAMES = {"input_ids", "attention_mask", "token_type_ids", "labels", "next_sentence_label"}


def stream(url: Path, **options: Any) -> ShardStream:
    return ShardStream(str(url), **({"global_batch": 12, "micro_batch": 3, "seed": 1} | options))


def keys(batches: Any) -> list[tuple[int, ...]]:
    """The real tokens of each sequence."""
    found = []
    for batch in batches:
        for ids, real in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            found.append(tuple(ids[real.bool()].tolist()))
    return found

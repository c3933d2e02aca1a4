"""Which ids there are: rare ones, as where a fast tokenizer differs from the reference a word is unusual, or special ones."""

from typing import Any

import numpy as np

from shards.compiled import compiled


@compiled
def have_any(ids: Any, flags: Any) -> Any:
    """Whether an id is one of those that `flags` [ids of the vocabulary] marks."""
    found = False
    for number in ids:
        found |= flags[number]
    return found


@compiled
def have_rare_tokens(ids: Any, lengths: Any, num_ids: int, unknown: int) -> Any:
    """[texts] whether a text has a token that occurs once in all of them, or the unknown one (-1: there is none)."""
    counts = np.zeros(num_ids, np.int64)
    for number in ids:
        counts[number] += 1
    if unknown >= 0:
        counts[unknown] = 1
    have_rare = np.zeros(len(lengths), np.bool_)
    start = 0
    for text in range(len(lengths)):
        for i in range(start, start + lengths[text]):
            if counts[ids[i]] == 1:
                have_rare[text] = True
                break
        start += lengths[text]
    return have_rare

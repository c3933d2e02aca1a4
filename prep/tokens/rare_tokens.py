"""Rare tokens: where a fast tokenizer differs from the reference, a word is unusual. A loop, in a module that opens no file."""

from typing import Any

import numpy as np

from shards.compiled import compiled


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

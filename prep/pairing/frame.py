"""Segments and special tokens -> the token ids of sequences."""

from typing import Any

from shards.compiled import compiled


@compiled
def copy_segments(
    out: Any,
    starts: Any,
    ids: Any,
    a_starts: Any,
    a_lengths: Any,
    b_starts: Any,
    b_lengths: Any,
    prefix: Any,
    between: Any,
    suffix: Any,
) -> None:
    """Writes `prefix A between B suffix` of every sequence into `out`."""
    for s in range(len(a_starts)):
        at = starts[s]
        for token in prefix:
            out[at] = token
            at += 1
        for i in range(a_lengths[s]):
            out[at + i] = ids[a_starts[s] + i]
        at += a_lengths[s]
        for token in between:
            out[at] = token
            at += 1
        for i in range(b_lengths[s]):
            out[at + i] = ids[b_starts[s] + i]
        at += b_lengths[s]
        for token in suffix:
            out[at] = token
            at += 1

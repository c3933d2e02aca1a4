"""Rows of one column, copied to other places."""

from typing import Any

from shards.compiled import compiled


@compiled
def copy_rows(source: Any, source_offsets: Any, source_rows: Any, out: Any, out_offsets: Any, out_rows: Any) -> None:
    """Copies row `source_rows[i]` of one column to row `out_rows[i]` of another, for every i; offsets are [R + 1]."""
    for i in range(len(source_rows)):
        start, at = source_offsets[source_rows[i]], out_offsets[out_rows[i]]
        for j in range(source_offsets[source_rows[i] + 1] - start):
            out[at + j] = source[start + j]

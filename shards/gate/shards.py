"""The gate of the shards that a manifest names, as columns: one array per field, whatever file they came from.

    listed in manifest.json -> read_listed \\
                                             columns -> check_columns: names, bounds, counts that agree
    shards.npz              -> check_index /

Legend: N shards of a split, U row groups of all of them. The columns of N values are the counts, and `row_groups`, the number
of row groups of each shard. Those of U values are `group_rows`, `group_offset` and `group_bytes`. `path` holds the paths as
text, one per line, and the digests have 32 bytes per shard.
"""

import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from shards.gate.fields import MAX_INTEGER, Field
from shards.gate.rows import MAX_GROUP_ROWS, MAX_GROUP_TOKENS
from shards.schema import Ints, Offsets, lengths_to_offsets

Columns = Mapping[str, Ints]
SUMS = ("rows", "sequences", "tokens", "masked_tokens", "not_next", "forced_not_next", "bytes")
MAXIMA = ("max_row_tokens", "max_sequence_tokens", "max_sequences_per_row", "max_masked_per_row")
COUNTS = (*SUMS, *MAXIMA)
DIGESTS = ("sha256", "columns_sha256")
GROUP_COLUMNS = ("group_rows", "group_offset", "group_bytes")
COLUMN_NAMES = ("path", *DIGESTS, *COUNTS, "row_groups", *GROUP_COLUMNS)
DIGEST_BYTES = 32
_MAX_SHARD_BYTES = 1 << 40
_MAX_SHARD_ROWS = 1 << 31
_SHARD_NAME = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,200}"
# A shard has at most so many bytes: before its row groups and at its end; in its footer, per row group; beside the values of a
# row; and per value that a maximum counts (input_ids; two lengths and a label; a position and a label), with a fourth more.
_GAP_BYTES = 1 << 16
_FOOTER_BYTES = 1 << 13
_ROW_OVERHEAD_BYTES = 1 << 13
_MOST_BYTES = {"max_row_tokens": 5, "max_sequences_per_row": 7, "max_masked_per_row": 8}
_BLOCK = 4096  # shards that are checked at once, so that the check takes little memory


def read_listed(shards: Field) -> Columns:
    """The columns of the shards that a manifest lists. Raises ValueError for a field of another type."""
    entries = shards.items()
    groups = [group for shard in entries for group in shard["row_groups"].items()]
    numbers = [[number.integer() for number in group.items(3)] for group in groups]
    for group, triple in zip(groups, numbers, strict=True):
        group.require(len(triple) == 3, "must be [rows, offset, bytes]")
    table = np.array(numbers, np.int64).reshape(-1, 3)
    columns: dict[str, Ints] = {name: np.array([shard[name].integer() for shard in entries], np.int64) for name in COUNTS}
    columns["row_groups"] = np.array([len(shard["row_groups"].items()) for shard in entries], np.int64)
    columns |= {name: table[:, number] for number, name in enumerate(GROUP_COLUMNS)}
    texts = {name: bytes.fromhex("".join(shard[name].text("[0-9a-f]{64}") for shard in entries)) for name in DIGESTS}
    texts["path"] = "".join(shard["path"].text(r"[!-~]+") + "\n" for shard in entries).encode()
    return columns | {name: np.frombuffer(text, np.uint8) for name, text in texts.items()}


def check_index(columns: Columns) -> None:
    """Raises ValueError unless the arrays of an index are the columns of some shards, with lengths that agree."""
    if set(columns) != set(COLUMN_NAMES):
        raise ValueError(f"its columns are {', '.join(sorted(columns))[:200]}; must be {', '.join(COLUMN_NAMES)}")
    num_shards, num_groups = len(columns["bytes"]), len(columns["group_rows"])
    lengths = dict.fromkeys(COLUMN_NAMES, num_shards) | dict.fromkeys(GROUP_COLUMNS, num_groups)
    lengths |= dict.fromkeys(DIGESTS, DIGEST_BYTES * num_shards) | {"path": len(columns["path"])}
    for name, values in columns.items():
        if values.dtype == np.uint64 and int(values.max(initial=0)) > MAX_INTEGER:
            raise ValueError(f"{name} holds {values.max()}, must hold integers up to {MAX_INTEGER}")
        if len(values) != lengths[name]:
            raise ValueError(f"{name} has {len(values)} values, must have {lengths[name]}")
        if name in ("path", *DIGESTS) and values.dtype != np.uint8:
            raise ValueError(f"{name} is {values.dtype}, must be uint8")
    groups = columns["row_groups"]
    if groups.max(initial=0) > num_groups or int(groups.sum(dtype=np.int64)) != num_groups:
        raise ValueError(f"row_groups does not sum to the {num_groups} row groups")
    if int((columns["path"] == ord("\n")).sum()) != num_shards or bytes(columns["path"][-1:]) not in (b"", b"\n"):
        raise ValueError(f"path does not hold {num_shards} lines")


def check_columns(columns: Columns, split: str, suffix: str, max_seq_len: int, capacity: int) -> None:
    """Raises ValueError that names the first field of a shard which is out of bounds or contradicts another one."""
    where = f"splits.{split}.shards"
    pattern = f"{split}/{_SHARD_NAME}{re.escape(suffix)}"
    _check_paths(bytes(columns["path"]).decode("ascii", "replace").split("\n")[:-1], where, pattern)
    starts = lengths_to_offsets(columns["row_groups"].astype(np.int64))
    for first in range(0, len(starts) - 1, _BLOCK):
        last = min(first + _BLOCK, len(starts) - 1)
        shards = _Block(where, first, {name: columns[name][first:last] for name in COUNTS})
        most = _check_counts(shards, max_seq_len, capacity)
        row_bytes = _ROW_OVERHEAD_BYTES + np.sum([most[name] * size for name, size in _MOST_BYTES.items()], axis=0)
        groups = {name: columns[name][starts[first] : starts[last]] for name in GROUP_COLUMNS}
        _check_row_groups(shards, groups, starts[first : last + 1] - starts[first], capacity, row_bytes)


def _check_paths(paths: list[str], where: str, pattern: str) -> None:
    matcher = re.compile(pattern)
    for number, path in enumerate(paths):
        if not matcher.fullmatch(path):
            raise ValueError(f"{where}[{number}].path is {path[:60]!r}, must be a text that matches {pattern}")
    if len(set(paths)) != len(paths):
        raise ValueError(f"{where} must name each shard once")


class _Block:
    """Some consecutive shards, the first of which has the number `first`. Bounds are checked before any arithmetic."""

    def __init__(self, where: str, first: int, columns: Columns) -> None:
        self._where, self._first, self._columns = where, first, columns

    def integers(self, name: str, low: int | Offsets, high: int | Offsets) -> Offsets:
        """A column, each value from `low` to `high`: one bound for all shards, or one per shard."""
        values = self._columns[name].astype(np.int64)
        lows, highs = (np.broadcast_to(bound, values.shape) for bound in (low, high))
        is_within = (values >= lows) & (values <= highs)
        worst = int(np.argmin(is_within)) if len(values) else 0
        self.require(
            is_within, name, f"must be an integer from {lows[worst : worst + 1].sum()} to {highs[worst : worst + 1].sum()}"
        )
        return values

    def require(self, is_met: npt.NDArray[np.bool_], name: str, rule: str) -> None:
        """Raises ValueError for the first shard that does not meet a rule about its field `name`."""
        if not is_met.all():
            number = int(np.argmin(is_met))
            value = f" is {self._columns[name][number]}" if name in COUNTS else ""
            raise ValueError(f"{self._where}[{self._first + number}].{name}{value}, {rule}")


def _check_counts(shards: _Block, max_seq_len: int, capacity: int) -> dict[str, Offsets]:
    """Returns the maxima per row, by their names."""
    shards.integers("bytes", 1, _MAX_SHARD_BYTES)
    rows = shards.integers("rows", 1, _MAX_SHARD_ROWS)
    most, sums = {}, {}
    for name, sum_name in (
        ("max_row_tokens", "tokens"),
        ("max_sequences_per_row", "sequences"),
        ("max_masked_per_row", "masked_tokens"),
    ):
        most[name] = shards.integers(name, 0, capacity)
        sums[sum_name] = shards.integers(sum_name, 0, rows * most[name])
    sequences, tokens = sums["sequences"], sums["tokens"]
    longest = shards.integers("max_sequence_tokens", 0, np.minimum(max_seq_len, most["max_row_tokens"]))
    shards.integers("tokens", 0, sequences * longest)
    shards.require((rows <= sequences) & (sequences <= tokens), "sequences", "must be from its rows to its tokens")
    shards.integers("masked_tokens", 0, tokens)
    shards.integers("forced_not_next", 0, shards.integers("not_next", 0, sequences))
    return most


def _check_row_groups(shards: _Block, groups: Columns, starts: Offsets, capacity: int, row_bytes: Offsets) -> None:
    """`starts` [N + 1]: where the row groups of each shard begin in the columns of `groups`.

    `row_bytes` [N]: the most bytes of a row. A file may have holes, so that few rows could claim a large one.
    """
    sizes = np.repeat(shards.integers("bytes", 1, _MAX_SHARD_BYTES), np.diff(starts))
    most = min(MAX_GROUP_ROWS, max(1, MAX_GROUP_TOKENS // capacity))
    rows, offset, num_bytes = (groups[name].astype(np.int64) for name in GROUP_COLUMNS)
    is_first = np.zeros(len(rows) + 1, np.bool_)
    is_first[starts] = True
    end = np.minimum(offset, sizes) + np.minimum(num_bytes, sizes)
    gap = offset - np.where(is_first[:-1], 0, np.append(0, end[:-1])[: len(offset)])
    most_bytes = _GAP_BYTES + np.clip(rows, 0, most) * np.repeat(row_bytes, np.diff(starts))
    for is_met, rule in (
        ((rows >= 1) & (rows <= most), f"a row group must have from 1 to {most} rows"),
        ((offset <= sizes) & (num_bytes <= sizes) & (end <= sizes), "a row group must end within the bytes of its shard"),
        ((gap >= 0) & (gap <= _GAP_BYTES), "a row group must begin after the one before it"),
        (num_bytes <= most_bytes, "a row group must be no larger than its rows can be"),
    ):
        if not is_met.all():
            group = int(np.argmin(is_met))
            shown = ", ".join(str(groups[name][group]) for name in GROUP_COLUMNS)
            shard = int(np.searchsorted(starts, group, side="right")) - 1
            shards.require(np.arange(len(starts) - 1) != shard, "row_groups", f"[{shown}]: {rule}")
    sums = np.diff(lengths_to_offsets(rows)[starts])
    shards.require(shards.integers("rows", 1, _MAX_SHARD_ROWS) == sums, "rows", "must be the sum of its row groups")
    rest = shards.integers("bytes", 1, _MAX_SHARD_BYTES) - end[starts[1:] - 1]
    footer = _GAP_BYTES + np.diff(starts) * _FOOTER_BYTES
    shards.require(rest <= footer, "row_groups", "must not end long before the shard")

"""Rows <-> WebDataset, one `.tar.gz` a shard with one `.npz` member a row.

The gzip stream is flushed in full at each row group, so that a group can be decompressed from its own byte range, and yet
it is one stream, which is all that tarfile's streaming mode (WebDataset's reader) understands.
"""

import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from shards import npz
from shards.manifest import RowGroup
from shards.schema import Ints, Offsets, Rows, lengths_to_offsets, rows_from_columns

SUFFIX = ".tar.gz"
_COMPRESSION_LEVEL = 6
_BLOCK = 512
_END = b"\0" * (2 * _BLOCK)


def write(rows: Rows, group_rows: int) -> tuple[memoryview, list[RowGroup]]:
    """The bytes of a shard and the table of its row groups of `group_rows` rows each."""
    compressor = zlib.compressobj(_COMPRESSION_LEVEL, zlib.DEFLATED, 31)
    columns = list(rows.columns())
    out = bytearray(compressor.flush(zlib.Z_FULL_FLUSH))
    groups = []
    for start in range(0, len(rows), group_rows):
        stop, offset = min(start + group_rows, len(rows)), len(out)
        for row in range(start, stop):
            data = npz.encode({name: values[at[row] : at[row + 1]] for name, at, values in columns})
            header = tarfile.TarInfo(f"{row:08d}.npz")
            header.size = len(data)
            out += compressor.compress(header.tobuf(tarfile.USTAR_FORMAT) + data + b"\0" * (-len(data) % _BLOCK))
        out += compressor.flush(zlib.Z_FULL_FLUSH)
        groups.append(RowGroup(stop - start, offset, len(out) - offset))
    out += compressor.compress(_END) + compressor.flush()
    return memoryview(out), groups


def read(source: str | memoryview | bytes, table: Sequence[RowGroup], groups: Sequence[int] | None = None) -> Rows:
    """The rows of a shard, given as a local path or its bytes, with its table; only those of `groups` where given.

    Raises ValueError or OSError when the file is damaged or is not what its table says.
    """
    data = memoryview(Path(source).read_bytes() if isinstance(source, str) else source)
    wanted = range(len(table)) if groups is None else groups
    rows = [row for group in wanted for row in _read_group(data, table[group])]
    if any(row.keys() != rows[0].keys() for row in rows):
        raise ValueError("its rows do not all have the same columns")
    columns: dict[str, tuple[Offsets, Ints]] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        columns[name] = (lengths_to_offsets(np.array([len(part) for part in values])), np.concatenate(values))
    return rows_from_columns(columns)


def _read_group(data: memoryview, group: RowGroup) -> list[dict[str, Ints]]:
    try:
        plain = zlib.decompressobj(-15).decompress(data[group.offset : group.offset + group.bytes])
        rows = list(_members(plain))
    except (zlib.error, tarfile.TarError) as error:
        raise ValueError(f"not a readable tar.gz of npz members: {error}") from error
    if len(rows) != group.rows:
        raise ValueError(f"the row group at byte {group.offset} has {len(rows)} rows, the manifest's table {group.rows}")
    return rows


def _members(plain: bytes) -> Iterator[dict[str, Ints]]:
    at = 0
    while at < len(plain):
        member = tarfile.TarInfo.frombuf(plain[at : at + _BLOCK], "ascii", "strict")
        at += _BLOCK
        yield npz.decode(plain[at : at + member.size])
        at += member.size + -member.size % _BLOCK

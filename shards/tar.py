"""Rows <-> WebDataset: one `.tar.gz` per shard with one `.npz` member per row.

The gzip stream is flushed in full at each row group, so a reader can decompress a group from its own byte range. It is
still one stream, because that is all that tarfile's streaming mode (WebDataset's reader) understands.
"""

import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from shards.gate.rows import FORMAT_LIMITS, Limits
from shards.manifest import RowGroup
from shards.npz import decode_npz, encode_npz
from shards.schema import Ints, Offsets, Rows, lengths_to_offsets, rows_from_columns

SUFFIX = ".tar.gz"
_COMPRESSION_LEVEL = 6
_BLOCK = 512
_END = b"\0" * (2 * _BLOCK)
_GZIP = 31  # zlib's window bits for a gzip stream
_ROW_OVERHEAD_BYTES = 8192  # headers and padding of tar, zip and npy, at most
_INFLATE_BYTES = 1 << 20


def write(rows: Rows, group_rows: int) -> tuple[memoryview, list[RowGroup]]:
    """The bytes of a shard and the table of its row groups of `group_rows` rows each."""
    compressor = zlib.compressobj(_COMPRESSION_LEVEL, zlib.DEFLATED, _GZIP)
    columns = list(rows.columns())
    out = bytearray(compressor.flush(zlib.Z_FULL_FLUSH))
    groups = []
    for start in range(0, len(rows), group_rows):
        stop, offset = min(start + group_rows, len(rows)), len(out)
        for row in range(start, stop):
            data = encode_npz({name: values[at[row] : at[row + 1]] for name, at, values in columns})
            header = tarfile.TarInfo(f"{row:08d}.npz")
            header.size = len(data)
            out += compressor.compress(header.tobuf(tarfile.USTAR_FORMAT) + data + b"\0" * (-len(data) % _BLOCK))
        out += compressor.flush(zlib.Z_FULL_FLUSH)
        groups.append(RowGroup(stop - start, offset, len(out) - offset))
    out += compressor.compress(_END) + compressor.flush()
    return memoryview(out), groups


def read(
    source: str | memoryview | bytes,
    table: Sequence[RowGroup],
    groups: Sequence[int] | None = None,
    limits: Limits = FORMAT_LIMITS,
) -> Rows:
    """The rows of a shard, from a local path or its bytes, with its table; only those of `groups` if it is set.

    Raises ValueError or OSError when the file is damaged, is not what its table says, or is beyond the limits.
    """
    data = memoryview(Path(source).read_bytes() if isinstance(source, str) else source)
    requested = range(len(table)) if groups is None else groups
    rows: list[dict[str, Ints]] = []
    left = limits.decoded_bytes(sum(group.rows for group in table))
    for group in requested:
        members = _read_group(data, table[group], min(limits.decoded_bytes(table[group].rows), left))
        left -= sum(values.nbytes for member in members for values in member.values())
        rows += members
    if not rows or any(row.keys() != rows[0].keys() for row in rows):
        raise ValueError("its rows do not all have the same columns")
    columns: dict[str, tuple[Offsets, Ints]] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        columns[name] = (lengths_to_offsets(np.array([len(part) for part in values])), np.concatenate(values))
    return rows_from_columns(columns)


def check_stream(data: memoryview, table: Sequence[RowGroup]) -> None:
    """Checks what other readers need beside the row groups: one whole gzip stream with an end. Raises ValueError."""
    end = table[-1].offset + table[-1].bytes
    inflater = zlib.decompressobj(_GZIP)
    try:
        for start in range(0, end, _INFLATE_BYTES):
            block: bytes | memoryview = data[start : min(end, start + _INFLATE_BYTES)]
            while block:
                inflater.decompress(block, _INFLATE_BYTES)  # in parts, so that a bomb costs time and no memory
                block = inflater.unconsumed_tail
        rest = inflater.decompress(data[end:], _INFLATE_BYTES)
    except zlib.error as error:
        raise ValueError(f"not a readable gzip stream: {error}") from error
    if rest != _END or not inflater.eof or inflater.unused_data:
        raise ValueError("the gzip stream does not end as a tar does")


def _read_group(data: memoryview, group: RowGroup, most_decoded: int) -> list[dict[str, Ints]]:
    """The rows of a group, whose columns have at most `most_decoded` bytes."""
    most = group.rows * _ROW_OVERHEAD_BYTES + max(0, most_decoded)
    inflater = zlib.decompressobj(-15)
    try:
        plain = inflater.decompress(data[group.offset : group.offset + group.bytes], most + 1)
        if len(plain) > most:
            raise ValueError(f"the row group at byte {group.offset} is larger than its {group.rows} rows may be")
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
        if not member.isreg() or not 0 <= member.size <= len(plain) - at:  # a size may be negative
            raise ValueError("a member of the tar is no file, or is larger than its row group")
        yield decode_npz(plain[at : at + member.size])
        at += member.size + -member.size % _BLOCK

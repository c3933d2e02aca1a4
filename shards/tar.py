"""Rows <-> WebDataset, one `.tar.gz` a shard with one `.npz` member a row.

The gzip stream is flushed in full at each row group, so that a group can be decompressed from its own byte range, and yet
it is one stream, which is all that tarfile's streaming mode (WebDataset's reader) understands.
"""

import io
import struct
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from shards.manifest import RowGroup
from shards.schema import Ints, Offsets, Rows, lengths_to_offsets, rows_from_columns

SUFFIX = ".tar.gz"
_COMPRESSION_LEVEL = 6
_BLOCK = 512
_END = b"\0" * (2 * _BLOCK)
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_ZIP_END = struct.Struct("<4s4H2LH")
_VERSION, _STORED, _TIME, _DATE = 20, 0, 0, 33  # 1980-01-01, zip's first day: no clock reaches a shard
_NPY_PREFIX = 10  # magic, version, and the header's length


def write(rows: Rows, group_rows: int) -> tuple[memoryview, list[RowGroup]]:
    """The bytes of a shard and the table of its row groups of `group_rows` rows each."""
    compressor = zlib.compressobj(_COMPRESSION_LEVEL, zlib.DEFLATED, 31)
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
        yield decode_npz(plain[at : at + member.size])
        at += member.size + -member.size % _BLOCK


@lru_cache(maxsize=1 << 16)
def _npy_header(dtype: str, length: int) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": (length,)})
    return header.getvalue()


@lru_cache(maxsize=1 << 16)
def _parse_npy_header(header: bytes) -> tuple[np.dtype[np.integer], int]:
    stream = io.BytesIO(header)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("a member is not a version 1.0 .npy file")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    if len(shape) != 1 or fortran_order or dtype.kind != "u":
        raise ValueError(f"a member holds {dtype} of shape {shape}, not a row of unsigned integers")
    return dtype, shape[0]


def encode_npz(columns: dict[str, Ints]) -> bytes:
    """The archive with a member `NAME.npy` for each array."""
    out, directory = bytearray(), bytearray()
    for name, values in columns.items():
        member = f"{name}.npy".encode()
        data = (
            _npy_header(values.dtype.newbyteorder("<").str, len(values))
            + values.astype(values.dtype.newbyteorder("<")).tobytes()
        )
        fields = (_VERSION, 0, _STORED, _TIME, _DATE, zlib.crc32(data), len(data), len(data), len(member), 0)
        directory += _CENTRAL.pack(b"PK\1\2", _VERSION, *fields, 0, 0, 0, 0, len(out)) + member
        out += _LOCAL.pack(b"PK\3\4", *fields) + member + data
    end = _ZIP_END.pack(b"PK\5\6", 0, 0, len(columns), len(columns), len(directory), len(out), 0)
    return bytes(out + directory + end)


def decode_npz(data: bytes) -> dict[str, Ints]:
    """The arrays by name. Raises ValueError when the archive is damaged or is none that `encode_npz` makes."""
    columns: dict[str, Ints] = {}
    at = 0
    try:
        while data[at : at + 4] == b"PK\3\4":
            _, _, flags, method, _, _, crc, size, _, name_length, extra = _LOCAL.unpack_from(data, at)
            start = at + _LOCAL.size + name_length
            content = data[start : start + size]
            if flags or method != _STORED or extra or len(content) != size or zlib.crc32(content) != crc:
                raise ValueError("a member is damaged, compressed or was written by another program")
            header_end = _NPY_PREFIX + int.from_bytes(content[8:_NPY_PREFIX], "little")
            dtype, length = _parse_npy_header(content[:header_end])
            name = data[at + _LOCAL.size : start].decode().removesuffix(".npy")
            columns[name] = np.frombuffer(content, dtype, length, header_end)
            at = start + size
    except struct.error as error:
        raise ValueError(f"the archive ends early ({error})") from error
    if data[at : at + 4] != b"PK\1\2":
        raise ValueError("the archive ends early")
    return columns

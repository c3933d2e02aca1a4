"""The shards of a split, in order: columns, and an object per shard only while somebody looks at it.

    ShardInfo, ShardInfo, ... <-> Shards (columns) <-> bytes of shards.npz

A data set may have 100,000 shards of 32 row groups each. As objects they would take 1.6 GB, as columns they take 40 MB.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, overload

import numpy as np

from shards.gate.shards import COUNTS, DIGEST_BYTES, DIGESTS, GROUP_COLUMNS, MAXIMA, SUMS, Columns, check_index
from shards.npz import decode_npz, encode_npz
from shards.schema import Ints, Offsets, lengths_to_offsets


@dataclass(frozen=True)
class RowGroup:
    """Rows that can be decoded on their own: their number, and their byte range in the shard."""

    rows: int
    offset: int
    bytes: int


@dataclass(frozen=True)
class ShardInfo:
    """One shard: its path relative to the manifest, its contents, and the digests of its file and its columns."""

    path: str
    bytes: int
    sha256: str
    columns_sha256: str
    rows: int
    sequences: int
    tokens: int
    masked_tokens: int
    not_next: int
    forced_not_next: int
    max_row_tokens: int
    max_sequence_tokens: int
    max_sequences_per_row: int
    max_masked_per_row: int
    row_groups: tuple[RowGroup, ...]

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "ShardInfo":
        """The inverse of `to_json`. Other fields are ignored."""
        values = {f.name: value[f.name] for f in fields(ShardInfo)}
        return ShardInfo(**values | {"row_groups": tuple(RowGroup(*group) for group in value["row_groups"])})

    def to_json(self) -> dict[str, Any]:
        """Plain values, row groups as [rows, offset, bytes]."""
        value = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**value, "row_groups": [[group.rows, group.offset, group.bytes] for group in self.row_groups]}


class Shards(Sequence[ShardInfo]):
    """Shards by number. `columns` are described in `shards.gate.shards`."""

    def __init__(self, columns: Columns) -> None:
        """The columns have passed the gate, or were made by `of`."""
        self.columns = columns
        self._group_starts = lengths_to_offsets(columns["row_groups"].astype(np.int64))
        self._path_starts = lengths_to_offsets(np.diff(np.flatnonzero(columns["path"] == ord("\n")), prepend=-1))

    @staticmethod
    def of(infos: Iterable[ShardInfo]) -> "Shards":
        """The columns of these shards."""
        infos = list(infos)
        groups = [(group.rows, group.offset, group.bytes) for info in infos for group in info.row_groups]
        table = np.array(groups, np.int64).reshape(-1, 3)
        columns: dict[str, Ints] = {name: np.array([getattr(info, name) for info in infos], np.int64) for name in COUNTS}
        columns["row_groups"] = np.array([len(info.row_groups) for info in infos], np.int64)
        columns |= {name: table[:, number] for number, name in enumerate(GROUP_COLUMNS)}
        texts = {name: bytes.fromhex("".join(getattr(info, name) for info in infos)) for name in DIGESTS}
        texts["path"] = "".join(f"{info.path}\n" for info in infos).encode()
        return Shards(columns | {name: np.frombuffer(text, np.uint8) for name, text in texts.items()})

    def __len__(self) -> int:
        return len(self.columns["bytes"])

    @overload
    def __getitem__(self, number: int) -> ShardInfo: ...

    @overload
    def __getitem__(self, number: slice) -> list[ShardInfo]: ...

    def __getitem__(self, number: int | slice) -> ShardInfo | list[ShardInfo]:
        if isinstance(number, slice):
            return [self[each] for each in range(len(self))[number]]
        number = range(len(self))[number]  # raises IndexError, and counts from the end
        columns = self.columns
        first, last = self._group_starts[number : number + 2].tolist()
        groups = zip(*(columns[name][first:last].tolist() for name in GROUP_COLUMNS), strict=True)
        values: dict[str, Any] = {name: int(columns[name][number]) for name in COUNTS}
        values |= {name: self.digest(name, number) for name in DIGESTS}
        return ShardInfo(self._path(number), **values, row_groups=tuple(RowGroup(*group) for group in groups))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shards) and all(
            np.array_equal(self.columns[name], other.columns[name]) for name in self.columns
        )

    __hash__ = None  # type: ignore[assignment]

    def _path(self, number: int) -> str:
        first, last = self._path_starts[number : number + 2].tolist()
        return bytes(self.columns["path"][first : last - 1]).decode()

    def digest(self, column: str, number: int) -> str:
        """`sha256` or `columns_sha256` of a shard."""
        return bytes(self.columns[column][DIGEST_BYTES * number : DIGEST_BYTES * (number + 1)]).hex()

    def digests(self, column: str) -> list[str]:
        """`sha256` or `columns_sha256` of every shard."""
        return [self.digest(column, number) for number in range(len(self))]

    def paths(self) -> list[str]:
        """The path of every shard."""
        return bytes(self.columns["path"]).decode().split("\n")[:-1]

    def sizes(self) -> list[int]:
        """The bytes of every shard."""
        sizes: list[int] = self.columns["bytes"].tolist()
        return sizes

    def largest(self) -> ShardInfo:
        """The first shard with the largest of each count over all shards: an upper bound of what one of them needs."""
        largest: dict[str, Any] = {name: int(self.columns[name].max()) for name in COUNTS}
        return replace(self[0], **largest)

    def lost(self, sizes: Mapping[str, int]) -> Iterator[tuple[str, int]]:
        """Path and bytes of each shard that has another size in `sizes`, the bytes of files by their paths, or none."""
        for path, num_bytes in zip(self.paths(), self.sizes(), strict=True):
            if sizes.get(path) != num_bytes:
                yield path, num_bytes

    def num_groups(self) -> Offsets:
        """[N] the number of row groups of each shard."""
        return np.diff(self._group_starts)

    @cached_property
    def totals(self) -> dict[str, int]:
        """Sums and maxima over the shards; 0 if there are none."""
        sums = {name: sum(self.columns[name].tolist()) for name in SUMS}
        return sums | {name: int(self.columns[name].max(initial=0)) for name in MAXIMA}


def encode_index(splits: Mapping[str, Shards]) -> bytes:
    """The bytes of `shards.npz`: each column of each split, in the smallest type that fits."""
    arrays = {f"{name}/{column}": values for name, shards in splits.items() for column, values in shards.columns.items()}
    return encode_npz({name: values.astype(np.min_scalar_type(int(values.max(initial=0)))) for name, values in arrays.items()})


def decode_index(data: bytes, splits: Sequence[str]) -> dict[str, Columns]:
    """The columns of each split. Raises ValueError unless they are the columns of some shards."""
    columns: dict[str, dict[str, Ints]] = {name: {} for name in splits}
    for member, values in decode_npz(data).items():
        split, _, column = member.partition("/")
        if split not in columns:
            raise ValueError(f"{member[:60]!r} belongs to no split")
        columns[split][column] = values
    for part in columns.values():
        check_index(part)
    return dict(columns)

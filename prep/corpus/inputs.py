"""The files of a corpus in columns: ten million of them take about 1 GB, where an object for each would take 5 GB."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prep.corpus.documents import InputFile, name_key
from prep.corpus.names import FormatName
from shards.schema import lengths_to_offsets
from shards.storage.redaction import redacted

_BATCH = 1 << 16
# It returns what is freed to the system, unlike Arrow's own.
_POOL = pa.system_memory_pool()
# A name that an earlier --corpus has too gets this and a number at its end.
_SUFFIX = "~"
_SCHEMA = pa.schema(
    [
        ("path", pa.large_binary()),  # below its root
        ("version", pa.large_binary()),
        ("bytes", pa.int64()),
        ("root", pa.int32()),
        ("kind", pa.int32()),
        ("corpus", pa.int32()),
        ("place", pa.uint64()),  # a hash of the absolute URL
        ("hash", pa.uint64()),  # of the name
        ("suffix", pa.int32()),  # 0: none
    ]
)


class Root(NamedTuple):
    """What the URLs of many files begin with, and what their names begin with."""

    url: str
    label: str


class Kind(NamedTuple):
    """Format and compression."""

    format: FormatName
    compression: str


class Inputs(Sequence[InputFile]):
    """The files of a corpus, sorted by name."""

    def __init__(self, roots: Sequence[Root], kinds: Sequence[Kind], table: pa.Table) -> None:
        self._roots, self._kinds, self._table = roots, kinds, table
        self.bytes: npt.NDArray[np.int64] = _numbers(table["bytes"])
        self.hashes: npt.NDArray[np.uint64] = _numbers(table["hash"])

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, index: int) -> InputFile: ...
    @overload
    def __getitem__(self, index: slice) -> "Inputs": ...
    def __getitem__(self, index: int | slice) -> "InputFile | Inputs":
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return Inputs(self._roots, self._kinds, self._table.take(_array(range(start, stop, step), pa.int64())))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return next(self._files(self._table.slice(index % len(self), 1)))

    def __iter__(self) -> Iterator[InputFile]:
        for start in range(0, len(self), _BATCH):
            yield from self._files(self._table.slice(start, _BATCH))

    def _files(self, table: pa.Table) -> Iterator[InputFile]:
        names = ("path", "version", "bytes", "root", "kind", "corpus", "suffix")
        for path, version, size, root, kind, corpus, suffix in zip(*(table[name].to_pylist() for name in names), strict=True):
            text = path.decode(errors="surrogateescape")
            name = name_of(self._roots[root], text, suffix)
            kind_name, compression = self._kinds[kind]
            yield InputFile(name, self._roots[root].url + text, size, version.decode(), kind_name, compression, corpus)

    def kinds(self) -> dict[Kind, npt.NDArray[np.int64]]:
        """The formats and compressions that occur, each with the indices of its files."""
        numbers = _numbers(self._table["kind"])
        each = {kind: np.flatnonzero(numbers == number) for number, kind in enumerate(self._kinds)}
        return {kind: indices for kind, indices in each.items() if len(indices)}

    def renamed(self) -> Iterator[InputFile]:
        """The files whose name an earlier --corpus has too, so that they have a suffix."""
        numbers = np.flatnonzero(_numbers(self._table["suffix"]))
        yield from self._files(self._table.take(_array(numbers.tolist(), pa.int64()))) if len(numbers) else ()


def name_of(root: Root, path: str, suffix: int = 0) -> str:
    """The name of a file: what identifies it, on a disk or in a bucket."""
    name = root.label + path
    name = redacted(name) if "=" in name else name
    return f"{name}{_SUFFIX}{suffix}" if suffix else name


class InputsBuilder:
    """Takes the files of a corpus one by one, and makes Inputs of them."""

    def __init__(self) -> None:
        self._roots: dict[Root, int] = {}
        self._kinds: dict[Kind, int] = {}
        self._rows: list[tuple[Any, ...]] = []
        self._batches: list[pa.RecordBatch] = []

    def add(self, root: Root, path: str, size: int, version: str, kind: Kind, corpus: int, place: str) -> None:
        """One file: its path below the root, and `place`, its absolute URL."""
        numbers = (self._roots.setdefault(root, len(self._roots)), self._kinds.setdefault(kind, len(self._kinds)))
        hashes = (name_key(place), name_key(name_of(root, path)))
        self._rows.append((path.encode(errors="surrogateescape"), version.encode(), size, *numbers, corpus, *hashes, 0))
        if len(self._rows) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True) if self._rows else [[]] * len(_SCHEMA)
        arrays = [_array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA))
        self._rows = []

    def places(self) -> npt.NDArray[np.uint64]:
        """The places of all files so far."""
        self._flush()
        return _numbers(pa.Table.from_batches(self._batches, _SCHEMA)["place"])

    def finish(self) -> Inputs:
        """The files, sorted by name; where two names are equal, the later file gets a suffix."""
        self._flush()
        roots, kinds = list(self._roots), list(self._kinds)
        table = _with_unique_names(pa.Table.from_batches(self._batches, _SCHEMA), roots).drop_columns(["place"])
        self._batches = []
        if _are_few_in_order(table, roots):
            return Inputs(roots, kinds, table)
        import pyarrow.compute as pc  # here, as it takes long to load

        order = _order(table, roots)
        columns = {}
        for name in table.column_names:  # one by one, so that not all are in memory twice
            columns[name] = pc.take(table[name].combine_chunks(_POOL), order, memory_pool=_POOL)
            table = table.drop_columns([name])
        return Inputs(roots, kinds, pa.Table.from_arrays(list(columns.values()), list(columns)))


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """The values of a column. pa.array and to_numpy would import pandas, where that is installed."""
    if kind != pa.large_binary():
        return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.array(values, kind.to_pandas_dtype()))])
    offsets = lengths_to_offsets(np.array([len(value) for value in values], np.int64))
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))])


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """The numbers of a column."""
    return np.from_dlpack(column.combine_chunks())


def _are_few_in_order(table: pa.Table, roots: Sequence[Root]) -> bool:
    """Whether they are so few that this is quickly seen, and in the order of their names already."""
    if len(table) > _BATCH:
        return False
    labels = [root.label.encode(errors="surrogateescape") for root in roots]
    places = zip(table["root"].to_pylist(), table["path"].to_pylist(), strict=True)
    return all(first < second for first, second in pairwise(labels[root] + path for root, path in places))


def _order(table: pa.Table, roots: Sequence[Root]) -> pa.Array:
    """The indices of the files in the order of their names."""
    import pyarrow.compute as pc

    labels = _array([root.label.encode(errors="surrogateescape") for root in roots], pa.large_binary())
    nothing = _array([b""], pa.large_binary())[0]
    names = pc.binary_join_element_wise(pc.take(labels, table["root"]), table["path"], nothing, memory_pool=_POOL)
    names = pa.Table.from_arrays([names, table["suffix"]], ["name", "suffix"])
    return pc.sort_indices(names, [("name", "ascending"), ("suffix", "ascending")])


def _with_unique_names(table: pa.Table, roots: Sequence[Root]) -> pa.Table:
    """The files with a suffix at each name that an earlier file has."""
    hashes = np.sort(_numbers(table["hash"]))
    if (hashes[1:] != hashes[:-1]).all():
        return table
    table = table.sort_by([("corpus", "ascending"), ("place", "ascending")])
    hashes = _numbers(table["hash"]).copy()
    unique, first = np.unique(hashes, return_index=True)
    suffixes = np.zeros(len(hashes), np.int32)
    names = set(unique.tolist())
    later = np.setdiff1d(np.arange(len(hashes)), first)
    for row in later.tolist():
        root, path = roots[table["root"][row].as_py()], table["path"][row].as_py().decode(errors="surrogateescape")
        suffixes[row] = 2
        while (value := name_key(name_of(root, path, int(suffixes[row])))) in names:
            suffixes[row] += 1
        names.add(value)
        hashes[row] = value
    columns = {"hash": _array(hashes.tolist(), pa.uint64()), "suffix": _array(suffixes.tolist(), pa.int32())}
    for name, column in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table

"""The gate of Parquet files: the footer and the page headers, read before pyarrow allocates memory for them.

pyarrow believes the sizes in a page header, and ends the process at some footers. So this module reads both itself, with
the compact protocol of Thrift (github.com/apache/thrift, doc/specs/thrift-compact-protocol.md). It accepts only what
`shards.parquet` writes: data pages of version 1, plain or BYTE_STREAM_SPLIT, without dictionaries and indexes.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

_MAGIC = b"PAR1"
_TAIL_BYTES = 8  # the footer's length, and the magic
_MAX_FOOTER_BYTES = 64 << 20
_MAX_DEPTH = 12
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _STRUCT = 1, 2, 3, 7, 8, 9, 12
_INTEGERS = (4, 5, 6)
# Fields of the structs of parquet.thrift.
_ROW_GROUPS, _ENCRYPTION = 4, 8
_COLUMNS, _NUM_ROWS = 1, 3
_FILE_PATH, _META_DATA, _CRYPTO = 1, 3, 8
_COMPRESSED_BYTES, _DATA_OFFSET, _INDEX_OFFSET, _DICTIONARY_OFFSET, _SIZES = 7, 9, 10, 11, 16
_REPETITION_HISTOGRAM, _DEFINITION_HISTOGRAM = 2, 3
_PAGE_TYPE, _PAGE_BYTES, _PAGE_COMPRESSED_BYTES, _PAGE_CRC, _DATA_PAGE = 1, 2, 3, 4, 5
_NUM_VALUES, _ENCODING, _DEFINITION_ENCODING, _REPETITION_ENCODING = 1, 2, 3, 4
_PLAIN, _RLE, _BYTE_STREAM_SPLIT = 0, 3, 9


@dataclass(frozen=True)
class Chunk:
    """The pages of one column in one row group: a range of the file."""

    offset: int
    bytes: int


@dataclass(frozen=True)
class Group:
    """One row group: its rows, and the chunks of its columns in the order of the schema, one after the other."""

    rows: int
    chunks: tuple[Chunk, ...]


def footer_of(data: memoryview) -> bytes:
    """The bytes of a file's footer. Raises ValueError if it has no footer."""
    num_bytes = int.from_bytes(data[-_TAIL_BYTES:-4], "little") if len(data) > 2 * _TAIL_BYTES else 0
    if data[-4:] != _MAGIC or not 0 < num_bytes <= min(len(data) - _TAIL_BYTES - 4, _MAX_FOOTER_BYTES):
        raise ValueError("it does not end with a footer of Parquet")
    return bytes(data[-_TAIL_BYTES - num_bytes : -_TAIL_BYTES])


@lru_cache(maxsize=64)  # a reader asks for the same shard again with each row group
def read_footer(footer: bytes) -> tuple[Group, ...]:
    """The row groups of a file. Raises ValueError for a footer that `shards.parquet` does not write."""
    fields = _Reader(memoryview(footer)).struct()
    if _ENCRYPTION in fields:
        _refuse("it is encrypted")
    return tuple(_group(_struct(group)) for group in _list(fields.get(_ROW_GROUPS)))


def _group(group: dict[int, Any]) -> Group:
    chunks: list[Chunk] = []
    for column in _list(group.get(_COLUMNS)):
        parts = _struct(column)
        meta = _struct(parts.get(_META_DATA))
        if _FILE_PATH in parts or _CRYPTO in parts or _INDEX_OFFSET in meta or _DICTIONARY_OFFSET in meta:
            _refuse("a column has a dictionary, an index page, encryption or another file")
        sizes = _struct(meta.get(_SIZES, {}))
        for name in (_REPETITION_HISTOGRAM, _DEFINITION_HISTOGRAM):
            if len(_list(sizes.get(name, []))) not in (0, 2):  # pyarrow ends the process at any other
                _refuse("a column's histogram of levels does not fit its type")
        chunk = Chunk(_integer(meta.get(_DATA_OFFSET)), _integer(meta.get(_COMPRESSED_BYTES)))
        if chunks and chunk.offset != chunks[-1].offset + chunks[-1].bytes:
            _refuse("a column does not begin where the one before it ends")
        chunks.append(chunk)
    if not chunks:
        _refuse("a row group has no columns")
    return Group(_integer(group.get(_NUM_ROWS)), tuple(chunks))


def check_pages(data: memoryview, chunk: Chunk, most_values: int) -> int:
    """The number of values in the pages of a column.

    Raises ValueError where they are not as `shards.parquet` writes them, or hold more values.
    """
    at, end, values = chunk.offset, chunk.offset + chunk.bytes, 0
    if end > len(data):
        _refuse("a column is beyond the end of the file")
    while at < end:
        reader = _Reader(data[at : min(end, at + (1 << 16))])
        header = reader.struct()
        page = _struct(header.get(_DATA_PAGE))
        if header.get(_PAGE_TYPE) != 0 or _PAGE_CRC not in header or page.get(_ENCODING) not in (_PLAIN, _BYTE_STREAM_SPLIT):
            _refuse("a page is of a kind that no shard has")
        if (page.get(_DEFINITION_ENCODING), page.get(_REPETITION_ENCODING)) != (_RLE, _RLE):
            _refuse("the levels of a page are encoded in a way that no shard has")
        num_values = _integer(page.get(_NUM_VALUES))
        values += num_values
        if values > most_values:
            _refuse(f"a column has more than the {most_values} values that its rows may have")
        if _integer(header.get(_PAGE_BYTES)) > 8 * num_values + 1024:  # a value and its levels take at most 6 bytes
            _refuse("a page is larger than its values")
        at += reader.at + _integer(header.get(_PAGE_COMPRESSED_BYTES))
    if at != end:
        _refuse("a page goes beyond its column")
    return values


def _refuse(reason: str) -> NoReturn:
    raise ValueError(f"not a Parquet file of this format: {reason}")


def _struct(value: Any) -> dict[int, Any]:
    return value if isinstance(value, dict) else _refuse("a field is missing or of another type")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else _refuse("a field is missing or of another type")


def _integer(value: Any) -> int:
    return value if type(value) is int and value >= 0 else _refuse("a number is missing or negative")


class _Reader:
    """Thrift structs as dicts by field id. Lists and texts are no longer than the bytes that hold them."""

    def __init__(self, data: memoryview) -> None:
        self._data, self.at = data.cast("B"), 0  # the bytes of some buffers are signed

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """The fields of the next struct."""
        if depth > _MAX_DEPTH:
            _refuse("it is nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind in _INTEGERS:
            return self._zigzag()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind == _LIST:
            return self._items(depth)
        if kind == _BINARY:
            return self._take(self._varint())
        if kind in (_BYTE, _DOUBLE):
            return self._take(1 if kind == _BYTE else 8)
        return _refuse("it has a field of an unknown type")

    def _items(self, depth: int) -> list[Any]:
        head = self._byte()
        count, kind = head >> 4, head & 15
        count = self._varint() if count == 15 else count
        if count > len(self._data) - self.at:
            _refuse("a list is longer than the file")
        if kind in (_TRUE, _FALSE):
            return [self._byte() == _TRUE for _ in range(count)]
        return [self._value(kind, depth + 1) for _ in range(count)]

    def _byte(self) -> int:
        if self.at >= len(self._data):
            _refuse("it ends early")
        self.at += 1
        return self._data[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        return _refuse("a number is too long")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _take(self, count: int) -> memoryview:
        if count > len(self._data) - self.at:
            _refuse("a text is longer than the file")
        self.at += count
        return self._data[self.at - count : self.at]

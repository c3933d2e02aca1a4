"""Compressed streams -> plain ones. What comes before a damaged place is never lost."""

import bz2
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from shards.errors import UserError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHUNK_BYTES = 1 << 20
# What decompressors raise. Storage raises StorageError, which is none of these.
DAMAGED_STREAM = (EOFError, OSError, zlib.error, zstd.ZstdError, lzma.LZMAError)
_GZIP_MAGIC = b"\x1f\x8b\x08"
_GZIP = 31  # zlib's number for a gzip header and its checksum around the data
# The largest window that zstd knows, 2 GB: `zstd --long=31` and `--ultra` write such files, and the decoder refuses windows
# over 128 MB unless it is told. Memory is used only as far as a file fills its window.
_MAX_WINDOW_LOG = 31


def _zstd(file: BinaryIO) -> Any:
    return zstd.ZstdFile(file, options={zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG})


# Each opens a compressed file as a stream that has `read1`.
COMPRESSIONS: dict[str, Callable[[BinaryIO], Any]] = {
    "gz": lambda file: GzipMembers(file),
    "zst": _zstd,
    "bz2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}


def decompressed(file: BinaryIO, compressions: Sequence[str], url: str) -> BinaryIO:
    """The plain stream inside `compressions`, the outermost first. Several members or frames are read to their end.

    Reading it raises one of DAMAGED_STREAM at damage, EOFError for a truncated stream, and UserError, which names `url`, for
    a zstd stream that is whole, but needs what this cannot give.
    """
    for compression in compressions:
        stream = COMPRESSIONS[compression](file)
        raw = stream if isinstance(stream, io.RawIOBase) else _Eager(stream, url)
        file = io.BufferedReader(raw, CHUNK_BYTES)
    return file


class _Eager(io.RawIOBase):
    """Returns what a decompressor has so far, so that nothing before a damaged place is lost with it."""

    def __init__(self, plain: Any, url: str) -> None:
        self._plain, self._url = plain, url

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._plain.read1(len(buffer))
        except zstd.ZstdError as error:
            raise _remedy(error, self._url) from error
        buffer[: len(data)] = data
        return len(data)


def _remedy(error: Exception, url: str) -> Exception:
    """An error of zstd; a UserError if the stream is whole, so that `--on-error skip` does not take it for damage."""
    text = str(error).lower()
    if "memory" in text:
        return UserError(f"{url}: its zstd window does not fit into memory; decompress it with `zstd -d --long=31` first")
    if "dictionary" in text:
        return UserError(f"{url}: was compressed with a zstd dictionary; decompress it with `zstd -d -D DICTIONARY` first")
    return error


class GzipMembers(io.RawIOBase):
    """The plain stream of a gzip file. With `stops`, it ends at each member's end until `next_member` is called.

    WARC files have a member per record, so a member's end is a place where a reader can recover.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file: Any = file
        self._packed = b""  # read and not inflated yet
        self._inflate: Any = zlib.decompressobj(_GZIP)
        self._ended = False
        self.stops = False
        self.num_bytes = 0  # plain bytes so far

    def readable(self) -> bool:
        """As io asks."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As io asks. Raises zlib.error for damage, EOFError for a truncated member."""
        data = b""
        while not data:
            if self._ended and (self.stops or not self.next_member()):
                return 0
            more = bool(self._packed) or self._fill()
            data = self._inflate.decompress(self._packed, len(buffer))
            self._packed = self._inflate.unconsumed_tail
            if self._inflate.eof:
                self._packed, self._ended = self._inflate.unused_data, True
            elif not more and not data:
                raise EOFError("Compressed file ended before the end-of-stream marker was reached")
        buffer[: len(data)] = data
        self.num_bytes += len(data)
        return len(data)

    def _fill(self) -> bool:
        self._packed = self._file.read1(CHUNK_BYTES)
        return bool(self._packed)

    def next_member(self) -> bool:
        """Goes to the next member; False at the end of the file. Zeros between members are padding."""
        while not (packed := self._packed.lstrip(b"\0")):
            if not self._fill():
                return False
        self._packed, self._inflate, self._ended = packed, zlib.decompressobj(_GZIP), False
        return True

    def find_member(self, beginning: bytes) -> bool:
        """After damage, goes to the next member whose text begins with `beginning`; False if there is none."""
        self._packed = self._packed[1:]  # not the damaged member itself
        while True:
            at = self._packed.find(_GZIP_MAGIC)
            if at < 0 or len(self._packed) - at < CHUNK_BYTES // 16:
                more = self._file.read1(CHUNK_BYTES)
                if at < 0 and not more:
                    return False
                self._packed = self._packed[at if at >= 0 else -2 :] + more
                if more:
                    continue
                at = 0
            self._packed = self._packed[at:]
            if _begins(self._packed, beginning):
                return self.next_member()
            self._packed = self._packed[1:]


def _begins(packed: bytes, beginning: bytes) -> bool:
    try:
        return zlib.decompressobj(_GZIP).decompress(packed, len(beginning)) == beginning
    except zlib.error:
        return False

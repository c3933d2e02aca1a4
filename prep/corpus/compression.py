"""Compressed streams -> plain ones, without losing what stands before a damaged place."""

import bz2
import gzip
import io
import lzma
import sys
import zlib
from typing import Any, BinaryIO

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHUNK_BYTES = 1 << 20
DAMAGED_STREAM = (EOFError, OSError, zlib.error, zstd.ZstdError, lzma.LZMAError)
"""What decompressors raise; storage raises StorageError, which is none of these."""
_OPENERS: dict[str, Any] = {
    "gz": lambda file: gzip.GzipFile(fileobj=file),
    "zst": zstd.ZstdFile,
    "bz2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}
COMPRESSIONS = tuple(_OPENERS)


def decompressed(file: BinaryIO, compression: str) -> BinaryIO:
    """The plain stream. Several members or frames are read to their end; a truncated one raises EOFError."""
    if not compression:
        return file
    return io.BufferedReader(_Eager(_OPENERS[compression](file)), CHUNK_BYTES)


class _Eager(io.RawIOBase):
    """Hands on what a decompressor has so far, so that nothing before a damaged place is lost with it."""

    def __init__(self, plain: Any) -> None:
        self._plain = plain

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._plain.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)

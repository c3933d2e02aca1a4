"""The format and compression of a file by its first bytes, because names are often wrong.

The plan reads no first bytes, because a corpus may have millions of files. They are checked when a file is read.
"""

import io
import re
import tarfile
from typing import BinaryIO, NamedTuple

from prep.corpus.compression import DAMAGED_STREAM, decompressed
from prep.corpus.documents import InputFile
from prep.corpus.names import FormatName
from shards.errors import UserError

HEAD_BYTES = 4096
_MOST_COMPRESSIONS = 3
_COMPRESSED = (
    ("gz", re.compile(rb"\x1f\x8b\x08")),
    ("zst", re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")),
    ("bz2", re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")),
    ("xz", re.compile(rb"\xfd7zXZ\x00")),
)
# What cannot be read, though it may hold text: its first bytes, its name, and what to do with it.
_REFUSED = (
    (re.compile(rb"filedesc://"), "an ARC file", "convert it to WARC, for example with `warcio recompress`"),
    (re.compile(rb"PARE"), "an encrypted Parquet file", "decrypt it"),
    (re.compile(rb"PK\x03\x04"), "a zip file", "unpack it"),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), "a 7z file", "unpack it"),
    (re.compile(rb"Rar!\x1a\x07"), "a rar file", "unpack it"),
    (re.compile(rb"\x04\x22\x4d\x18"), "an lz4 file", "decompress it"),
    (re.compile(rb"%PDF-"), "a PDF", "extract its text"),
    (re.compile(rb"ARROW1\x00|FEA1|\xff\xff\xff\xff.\x00\x00\x00", re.DOTALL), "an Arrow file", "convert it to Parquet"),
    (re.compile(rb"ORC.*[\x00-\x08]|Obj\x01", re.DOTALL), "an ORC or Avro file", "convert it to Parquet"),
    (re.compile(rb"version https://git-lfs\.github\.com/spec/"), "a pointer of Git LFS", "fetch the file with `git lfs pull`"),
    (re.compile(rb"\xff\xfe|\xfe\xff|\x00\x00\xfe\xff"), "UTF-16 or UTF-32 text", "convert it with `iconv -t UTF-8`"),
)
_WARC = re.compile(rb"WARC/\d+\.\d+\r?\n")
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_MOST_NULS = 0.01  # of the first bytes of a text; one that has a few lost only the documents with them


class Content(NamedTuple):
    """What a file holds, and the compressions around it, the outermost first."""

    format: FormatName
    compressions: tuple[str, ...]
    detail: str = ""  # with the format `other`: why it is not text


def recognize(file: BinaryIO, source: InputFile) -> Content:
    """The content of a file by its first bytes, or by its name if they do not show it. Leaves the file at its beginning.

    Raises UserError, which names the file, for a format that may hold text but cannot be read.
    """
    named = (source.compression,) if source.compression else ()
    compressions: tuple[str, ...] = ()
    head = _head(file, source.url, compressions)
    while len(compressions) < _MOST_COMPRESSIONS and (compression := compression_of(head)):
        compressions = (*compressions, compression)
        head = _head(file, source.url, compressions)
    if named and not compressions and not (is_text(head) or _container(head)):
        return Content(source.format, named)  # neither compressed nor anything else: damaged at its beginning
    return content_of(head, source, compressions)


def _head(file: BinaryIO, url: str, compressions: tuple[str, ...]) -> bytes:
    file.seek(0)
    try:
        head = io.BytesIO()
        stream = decompressed(file, compressions, url)
        while head.tell() < HEAD_BYTES and (data := stream.read(HEAD_BYTES - head.tell())):
            head.write(data)
    except DAMAGED_STREAM:
        pass  # its reader reports the fault
    finally:
        file.seek(0)
    return head.getvalue()


def compression_of(head: bytes) -> str:
    """The compression of a file that begins with `head`, or nothing."""
    return next((name for name, magic in _COMPRESSED if magic.match(head)), "")


def is_text(head: bytes) -> bool:
    """Whether the first bytes are UTF-8 text without control characters; a character may be cut at the end."""
    if not head or _CONTROLS.search(head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True


def content_of(head: bytes, source: InputFile, compressions: tuple[str, ...] = ()) -> Content:
    """The content of a file whose decompressed first bytes are `head`. Raises UserError for a format that cannot be read."""
    container = _container(head)
    if container == "parquet" and compressions:
        raise UserError(f"{source.url}: is a Parquet file inside {compressions[-1]}; decompress it, it is compressed inside")
    if container == "warc" and source.format != "warc":
        raise UserError(f"{source.url}: is a WARC file; name it .warc, or set --input warc")
    if container:
        return Content(container, compressions)
    for magic, name, remedy in _REFUSED:
        if magic.match(head):
            raise UserError(f"{source.url}: is {name}, which cannot be read; {remedy}")
    if source.format == "parquet" and not head.startswith(b"PAR1") and (compressions or is_text(head)):
        raise UserError(f"{source.url}: is no Parquet file: it begins with {head[:16]!r}; correct its name, or set --input")
    if source.format == "text" and _is_binary(head):
        return Content("other", compressions, "it holds NUL bytes: it is binary")
    return Content(source.format, compressions)


def _container(head: bytes) -> FormatName | None:
    if head.startswith(b"PAR1") and not is_text(head):
        return "parquet"
    if _WARC.match(head):
        return "warc"
    try:
        tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape")  # compares the checksum of the header
    except tarfile.HeaderError:
        return None
    return "tar"


def _is_binary(head: bytes) -> bool:
    nuls = head.count(0)
    if not nuls:
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.reason != "unexpected end of data" or nuls > _MOST_NULS * len(head)
    return nuls > _MOST_NULS * len(head)

"""Tars of strangers: headers that claim what is not there end as damage, at once and in little memory."""

import tarfile
import tracemalloc
import zlib
from pathlib import Path

import pytest

from prep.corpus.documents import Document, Fault, InputFile, Rule, Span
from prep.corpus.read import read_documents

TEXT = b"A text. It has two sentences.\n"


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def member(name: str, data: bytes) -> bytes:
    return header(name, len(data)) + data + bytes(-len(data) % 512)


def read(path: Path) -> list[Document | Fault]:
    compression = "gz" if path.suffix == ".gz" else ""
    file = InputFile(path.name, str(path), path.stat().st_size, "", "tar", compression)
    return list(read_documents(Span(file), Rule("line", "text")))


def check(items: list[Document | Fault], detail: str) -> None:
    """The text before the damage is there, and the damage has a name."""
    first, last = items[0], items[-1]
    assert isinstance(first, Document) and first.text == TEXT.decode()
    assert isinstance(last, Fault) and last.reason == "damaged" and detail in last.detail


@pytest.mark.parametrize("size", [2**33, 2**60])
def test_a_member_that_is_not_there(size: int, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(member("a.txt", TEXT) + header("b.txt", size) + TEXT)
    check(read(tmp_path / "a.tar"), "it ends inside a member")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_an_extended_header_of_any_size(kind: bytes, tmp_path: Path) -> None:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    data = packer.compress(member("a.txt", TEXT) + header("long", 100 << 20, kind))
    data += b"".join(packer.compress(b"9 a=bcde\n" * 100_000) for _ in range(100)) + packer.flush()
    (tmp_path / "a.tar.gz").write_bytes(data)
    tracemalloc.start()
    items = read(tmp_path / "a.tar.gz")
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    check(items, "an extended header has 104857600 bytes, at most 1048576 are read")
    assert most_bytes < 20 << 20


def test_extended_headers_of_extended_headers(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(
        member("a.txt", TEXT) + (header("x", 9, tarfile.XHDTYPE) + b"9 a=bcde\n".ljust(512, b"\0")) * 5000
    )
    check(read(tmp_path / "a.tar"), "extended header")


def test_a_long_name_is_read(tmp_path: Path) -> None:
    name = "folder/" * 60 + "a.txt"
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.size = len(TEXT)
        (tmp_path / "text").write_bytes(TEXT)
        with open(tmp_path / "text", "rb") as file:
            tar.addfile(info, file)
    assert [item.text for item in read(tmp_path / "a.tar") if isinstance(item, Document)] == [TEXT.decode()]

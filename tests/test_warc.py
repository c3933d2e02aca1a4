"""WARC records: one that is broken costs itself alone, and pages are read as browsers read them."""

import gzip
import sys
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import brotli
import containers
import pytest
from containers import read_file, texts_of

from prep.corpus.compression import decompressed
from prep.corpus.documents import Document, Fault
from prep.corpus.http import decode_body
from prep.corpus.pages import page_of
from shards.errors import UserError

PAGES = [f"Page {i} is about apples. It has a second sentence." for i in range(8)]


def read(path: Path, content: bytes) -> list[Document | Fault]:
    path.write_bytes(content)
    return read_file(path)


def outcomes(items: Sequence[Document | Fault]) -> list[str]:
    return [item.text if isinstance(item, Document) else item.reason for item in items]


def off_by(record: bytes, difference: int) -> bytes:
    """The record with another Content-Length."""
    head, end, body = record.partition(b"\r\n\r\n")
    before, name, length = head.rpartition(b"Content-Length: ")
    return before + name + str(int(length) + difference).encode() + end + body


def test_line_ends_of_lf_alone_are_read(tmp_path: Path) -> None:
    records = [containers.record("conversion", page.encode(), "text/plain").replace(b"\r\n", b"\n") for page in PAGES]
    assert texts_of(read(tmp_path / "a.wet", b"".join(records))) == PAGES


@pytest.mark.parametrize("difference", [-9, -1, 1, 4, 9, 10**6])
def test_a_record_of_another_length_costs_itself_alone_in_a_member_of_its_own(difference: int, tmp_path: Path) -> None:
    records = [containers.record("conversion", page.encode(), "text/plain") for page in PAGES]
    records[3] = off_by(records[3], difference)
    found = read(tmp_path / "a.wet.gz", b"".join(map(gzip.compress, records)))
    if 0 < difference <= 4:  # no more than the line ends that follow every record
        assert [text.strip() for text in texts_of(found)] == PAGES
    else:
        assert outcomes(found) == [*PAGES[:3], "damaged", *PAGES[4:]]


def test_a_record_that_is_too_short_costs_itself_alone_in_a_plain_file(tmp_path: Path) -> None:
    records = [containers.record("conversion", page.encode(), "text/plain") for page in PAGES]
    records[3] = off_by(records[3], -5)
    assert outcomes(read(tmp_path / "a.wet", b"".join(records))) == [*PAGES[:3], "damaged", *PAGES[4:]]


@pytest.mark.parametrize("length", [b"", b"-4", b"many", b"1e3"])
def test_a_record_without_a_length_costs_itself_alone(length: bytes, tmp_path: Path) -> None:
    records = [containers.record("conversion", page.encode(), "text/plain") for page in PAGES]
    number = str(len(PAGES[3])).encode()
    records[3] = records[3].replace(b"Content-Length: " + number, b"Content-Length: " + length)
    assert outcomes(read(tmp_path / "a.wet", b"".join(records))) == [*PAGES[:3], "damaged", *PAGES[4:]]


def test_a_damaged_gzip_member_costs_itself_alone(tmp_path: Path) -> None:
    members = [gzip.compress(containers.record("conversion", page.encode() * 40, "text/plain")) for page in PAGES]
    flipped = bytearray(members[3])
    flipped[len(flipped) // 2] ^= 0xFF
    members[3] = bytes(flipped)
    found = read(tmp_path / "a.wet.gz", b"".join(members))
    assert texts_of(found) == [page * 40 for page in PAGES[:3] + PAGES[4:]]
    assert [item.reason for item in found if isinstance(item, Fault)] == ["damaged"]


@pytest.mark.parametrize("content", [b"hello\nworld\n", b"\n\nno record\n" * 99, b"WARC/one\r\n\r\n", bytes(5000)])
def test_a_stream_that_holds_no_record_is_damaged(content: bytes, tmp_path: Path) -> None:
    for name, data in (("a.warc", content), ("a.warc.gz", gzip.compress(content))):
        assert outcomes(read(tmp_path / name, data)) == ["damaged"]


def test_positions_are_those_of_the_plain_stream(tmp_path: Path) -> None:
    records = [containers.record("conversion", page.encode(), "text/plain") for page in PAGES]
    found = read(tmp_path / "a.wet.gz", b"".join(map(gzip.compress, records)))
    assert [item.position for item in found] == [len(b"".join(records[:i])) for i in range(len(records))]


TEXT = "Grüße aus Köln, “schön” für 5 €. A second sentence follows here."


def page(body: bytes, media_type: str) -> Document | Fault:
    headers = {"content-type": ["application/http; msgtype=response"]}
    message = f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\n\r\n".encode() + body
    return page_of(0, message, headers)


HTML = "<html><head>{}</head><body><article><p>{}</p></article></body></html>"


@pytest.mark.parametrize(
    ("body", "media_type", "expected"),
    [
        (HTML.format("", TEXT).encode() + b"\xe9", "text/html; charset=utf-8", TEXT),
        (HTML.format('<meta charset="utf-8">', TEXT).encode() + b"\xe9", "text/html", TEXT),
        (HTML.format("", TEXT).encode("cp1252"), "text/html; charset=iso-8859-1", TEXT),
        (b"\xef\xbb\xbf" + HTML.format("", TEXT).encode(), "text/html; charset=iso-8859-1", TEXT),
        (b"\xff\xfe" + HTML.format("", TEXT).encode("utf-16-le"), "text/html; charset=utf-8", TEXT),
        (HTML.format('<meta charset="utf-16">', TEXT).encode(), "text/html", TEXT),
        (HTML.format("", TEXT).encode(), "text/html; charset=undefined", TEXT),
        (HTML.format("", TEXT).encode(), "text/html; charset=utf-16", TEXT),
        (HTML.format("", "朱镕基").encode("gbk"), "text/html; charset=gb2312", "朱镕基"),
        (HTML.format("", "똠방각하").encode("cp949"), "text/html; charset=euc-kr", "똠방각하"),
        (HTML.format("", "①髙").encode("cp932"), "text/html; charset=Shift_JIS", "①髙"),
        (HTML.format("", "嘅啲").encode("big5hkscs"), "text/html; charset=big5", "嘅啲"),
        (TEXT.encode("cp1252"), "text/plain; charset=latin1", TEXT),
        (b"\xef\xbb\xbf" + TEXT.encode(), "text/plain", TEXT),
        (TEXT.encode() + b"\xe9 x", "text/plain; charset=utf-8", TEXT + "\ufffd x"),
        (b"A \\ud800 B", "text/plain; charset=unicode_escape", "A \\ud800 B"),
        (b"A +2AA- B", "text/plain; charset=utf-7", "A +2AA- B"),
    ],
)
def test_pages_are_decoded_as_the_encoding_standard_says(body: bytes, media_type: str, expected: str) -> None:
    found = page(body, media_type)
    assert isinstance(found, Document), found
    assert found.text.startswith(expected) and len(found.text) <= len(expected) + 2


@pytest.mark.parametrize("label", ["undefined", "idna", "punycode", "rot13", "x-user-defined", "a\0b", "é", "-", "utf-7"])
@pytest.mark.parametrize("kind", ["text/html", "text/plain"])
def test_a_label_of_no_encoding_is_no_label(label: str, kind: str) -> None:
    body = HTML.format("", TEXT) if kind == "text/html" else TEXT
    found = page(body.encode(), f"{kind}; charset={label}")
    assert isinstance(found, Document) and found.text == TEXT


def deflated(body: bytes, wbits: int) -> bytes:
    stream = zlib.compressobj(wbits=wbits)
    return stream.compress(body) + stream.flush()


BODY = TEXT.encode() * 50


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (brotli.compress(BODY), "br"),
        (containers.COMPRESS[".zst"](BODY), "zstd"),
        (deflated(BODY, 15), "deflate"),
        (deflated(BODY, -15), "Deflate"),
        (gzip.compress(gzip.compress(BODY)), "gzip, gzip"),
        (brotli.compress(gzip.compress(BODY)), "gzip, br"),
        (gzip.compress(BODY[:99]) + gzip.compress(BODY[99:]), "gzip"),
        *[(BODY, coding) for coding in ("UTF-8", "none", "identity", "", "gzip", "br", "zstd", "deflate", "gzip, gzip")],
    ],
)
def test_content_codings_are_undone_and_names_of_none_are_passed_over(body: bytes, coding: str) -> None:
    assert decode_body(body, {"content-encoding": [coding]}) == BODY


def test_of_a_body_that_was_cut_off_the_beginning_is_used() -> None:
    for packed, coding in ((gzip.compress(BODY), "gzip"), (brotli.compress(BODY), "br"), (deflated(BODY, -15), "deflate")):
        decoded = decode_body(packed[:-6], {"content-encoding": [coding]})
        assert BODY.startswith(decoded) and decoded


@pytest.mark.parametrize(("body", "coding"), [(b"\x00\x01\xff" * 9, "br"), (b"\x00\x01\xff" * 9, "gzip"), (BODY, "compress")])
def test_a_body_that_cannot_be_decoded_is_a_fault(body: bytes, coding: str) -> None:
    found = page(body, f"text/plain\r\nContent-Encoding: {coding}")
    assert isinstance(found, Fault) and found.reason == "broken_http"


def test_a_page_without_text_is_left_out() -> None:
    for body, kind in ((b"<html><body></body></html>", "text/html"), (b" \n", "text/plain"), (b"", "text/html")):
        found = page(body, kind)
        assert isinstance(found, Fault) and found.reason == "not_wanted"


def test_a_page_that_is_nested_absurdly_deep_is_a_fault_at_once() -> None:
    found = page(b"<div>" * 200_000 + b"text", "text/html")
    assert isinstance(found, Fault) and "nested deeper" in found.detail


def test_without_the_extra_a_warc_is_one_line_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.warc").write_bytes(containers.warc(PAGES))
    monkeypatch.setitem(sys.modules, "resiliparse", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"a\.warc: a WARC file needs the package resiliparse; install the extra: .*\[warc\]"):
        read_file(tmp_path / "a.warc")


def test_members_end_where_the_reader_asks_for_it() -> None:
    packed = gzip.compress(b"one") + bytes(7) + gzip.compress(b"two")
    assert decompressed(BytesIO(packed), ("gz",), "a.gz").read() == b"onetwo"

"""Stored HTTP responses: headers, and bodies in the codings that they had on the wire."""

import gzip
import zlib

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.corpus.http import decode_body, parse_headers, parse_response


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_status_headers_and_body(end: str) -> None:
    head = end.join(["HTTP/1.1 404 Not Found", "Content-Type: text/html;", " charset=x", "A: 1", "a: 2", "no header", "", ""])
    headers = {"content-type": ["text/html; charset=x"], "a": ["1", "2"]}
    assert parse_response(head.encode() + b"a\r\n\r\nb") == (404, headers, b"a\r\n\r\nb")
    assert parse_response(b"no HTTP at all") == (200, {}, b"no HTTP at all")


def test_a_header_line_without_a_name_before_it_is_passed_over() -> None:
    assert parse_headers([b" continued", b"A: b"]) == {"a": ["b"]}


@given(body=st.binary(min_size=1, max_size=300), size=st.integers(1, 50))
def test_chunks_are_joined(body: bytes, size: int) -> None:
    assert decode_body(chunked(body, size), {"transfer-encoding": ["chunked"]}) == body


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("identity", b"the words"),
        ("UTF-8", b"the words"),
        ("gzip", gzip.compress(b"the words", mtime=0)),
        ("x-gzip", gzip.compress(b"the words", mtime=0)),
        ("deflate", zlib.compress(b"the words")),
        ("deflate", zlib.compress(b"the words", wbits=-15)),
        ("br", brotli.compress(b"the words")),
        ("gzip", b"the words"),
        ("gzip, br", brotli.compress(gzip.compress(b"the words", mtime=0))),
    ],
)
def test_content_codings_are_undone_where_they_are_there(coding: str, packed: bytes) -> None:
    assert decode_body(packed, {"content-encoding": [coding]}) == b"the words"


def test_a_coding_that_cannot_be_undone_is_named() -> None:
    with pytest.raises(ValueError, match="dcz"):
        decode_body(b"\x00\x01\x02", {"content-encoding": ["dcz"]})

"""A stored HTTP response -> its headers and its body, without the codings that it had on the wire."""

import re
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from prep.corpus.documents import MAX_DOCUMENT_BYTES

Headers = Mapping[str, Sequence[str]]  # lower-case name -> values, in their order
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(rb"HTTP/[\d.]+\s+(\d{3})")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})[^\r\n]*\r\n")
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
# Codings of the registry that are not undone here. Any other name is no coding, and passed over as browsers do.
_UNKNOWN = ("aes128gcm", "compress", "dcb", "dcz", "exi", "pack200-gzip", "sdch", "x-compress")
_PIECE_BYTES = 1 << 14
_ENOUGH_BYTES = MAX_DOCUMENT_BYTES + 1  # more is dropped as too long


def parse_headers(lines: Sequence[bytes]) -> dict[str, list[str]]:
    """Headers by their lower-case names. A line that begins with a blank continues the one before."""
    headers: dict[str, list[str]] = {}
    values: list[str] | None = None
    for line in lines:
        if line[:1] in (b" ", b"\t") and values:
            values[-1] += " " + line.decode(errors="replace").strip()
            continue
        name, colon, value = line.decode(errors="replace").partition(":")
        if colon:
            values = headers.setdefault(name.strip().lower(), [])
            values.append(value.strip())
    return headers


def parse_response(message: bytes) -> tuple[int, Headers, bytes]:
    """Status, headers and body of a response. Without a status line all of it is the body, of status 200."""
    status = _STATUS.match(message)
    if not message.startswith(b"HTTP/"):
        return 200, {}, message
    end = _HEAD_END.search(message)
    head, body = (message[: end.start()], message[end.end() :]) if end else (message, b"")
    return int(status[1]) if status else 200, parse_headers(head.splitlines()[1:]), body


def decode_body(body: bytes, headers: Headers) -> bytes:
    """The body without its transfer and content codings, of at most _ENOUGH_BYTES.

    Crawlers that store decoded bodies leave the headers as they were: a body that is not of its coding and looks like text
    is returned as it is. Of a body that was cut off, what there is. Raises ValueError for one that cannot be decoded.
    """
    transfer = _codings(headers, "transfer-encoding")
    if "chunked" in transfer:
        body = _unchunked(body)
    codings = _codings(headers, "content-encoding") + [coding for coding in transfer if coding != "chunked"]
    for coding in reversed(codings):
        if coding in _UNKNOWN:
            raise ValueError(f"the content coding {coding} is not known here")
        if coding in _DECODERS:
            body = _decoded(body, coding)
    return body


def _codings(headers: Headers, name: str) -> list[str]:
    return [coding.strip().lower() for value in headers.get(name, ()) for coding in value.split(",")]


def _unchunked(body: bytes) -> bytes:
    """The body without its chunk sizes; as it is, if it does not begin with one."""
    if not _CHUNK.match(body):
        return body
    parts, at = [], 0
    while size_line := _CHUNK.match(body, at):
        size = int(size_line[1], 16)
        parts.append(body[size_line.end() : size_line.end() + size])
        at = size_line.end() + size + 2
        if not size:
            break
    return b"".join(parts)


def _decoded(body: bytes, coding: str) -> bytes:
    problem: Exception | None = None
    try:
        decoded = _DECODERS[coding](body)
    except (zlib.error, zstd.ZstdError, brotli.error, EOFError, ValueError) as error:
        decoded, problem = b"", error
    if decoded or not body:
        return decoded
    if not _CONTROLS.search(body[:1024]):
        return body
    raise ValueError(f"its content coding {coding} cannot be undone: {problem or 'it holds nothing'}")


def _inflate(body: bytes) -> bytes:
    """gzip (with several members) and deflate, with the zlib header that the standard asks for or without."""
    for wbits in (47, -15):
        try:
            return _all_members(body, wbits)
        except zlib.error as error:
            problem = error
    raise problem


def _all_members(body: bytes, wbits: int) -> bytes:
    decoded = bytearray()
    while body and len(decoded) < _ENOUGH_BYTES:
        stream = zlib.decompressobj(wbits)
        try:
            for start in range(0, len(body), _PIECE_BYTES):  # in pieces, so that damage costs no more than one
                decoded += stream.decompress(body[start : start + _PIECE_BYTES])
                if stream.eof or len(decoded) >= _ENOUGH_BYTES:
                    break
        except zlib.error:
            if not decoded:
                raise
            break
        body = stream.unused_data + body[start + _PIECE_BYTES :] if stream.eof else b""
    return bytes(decoded[:_ENOUGH_BYTES])


def _unzstd(body: bytes) -> bytes:
    return bytes(zstd.ZstdDecompressor().decompress(body, _ENOUGH_BYTES))


def _unbrotli(body: bytes) -> bytes:
    decoder: Any = brotli.Decompressor()
    decoded = decoder.process(body, output_buffer_limit=_ENOUGH_BYTES)
    while len(decoded) < _ENOUGH_BYTES and not decoder.is_finished() and not decoder.can_accept_more_data():
        decoded += decoder.process(b"", output_buffer_limit=_ENOUGH_BYTES - len(decoded))
    if not decoder.is_finished() and len(decoded) < _ENOUGH_BYTES and not _CONTROLS.search(body[:1024]):
        raise ValueError("no brotli stream")  # it has no mark at its beginning, and plain text may decode to a few bytes
    return bytes(decoded)


_DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": _inflate,
    "x-gzip": _inflate,
    "deflate": _inflate,
    "br": _unbrotli,
    "zstd": _unzstd,
}

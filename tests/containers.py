"""The same documents in every container that prep reads."""

import bz2
import gzip
import io
import json
import lzma
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from prep.corpus.documents import Document, Fault, Rule, Span
from prep.corpus.files import Corpus, list_inputs
from prep.corpus.names import InputName
from prep.corpus.read import read_documents

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstd.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def text(documents: Sequence[str]) -> bytes:
    """Documents of lines, with a blank line between."""
    return "\n\n".join(documents).encode() + b"\n"


def jsonl(documents: Sequence[str]) -> bytes:
    return "".join(json.dumps({"text": document}) + "\n" for document in documents).encode()


def parquet(documents: Sequence[str]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": list(documents)}), sink, row_group_size=3)
    return sink.getvalue()


def record(kind: str, body: bytes, media_type: str) -> bytes:
    """A WARC record."""
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://a/\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
    head += f"WARC-Record-ID: <urn:uuid:12345678-1234-1234-1234-123456789012>\r\nContent-Type: {media_type}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n\r\n"


INFO = record("warcinfo", b"software: a test\r\n", "application/warc-fields")


def wet(documents: Sequence[str]) -> bytes:
    return INFO + b"".join(record("conversion", document.encode(), "text/plain") for document in documents)


def response(body: bytes, media_type: str, status: str = "200 OK") -> bytes:
    """A page as a crawler stores it."""
    answer = f"HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    return record("response", answer, "application/http; msgtype=response")


def warc(documents: Sequence[str]) -> bytes:
    request = record("request", b"GET / HTTP/1.1\r\n\r\n", "application/http; msgtype=request")
    return INFO + b"".join(request + response(document.encode(), "text/plain; charset=utf-8") for document in documents)


def tar(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def tar_of_texts(documents: Sequence[str]) -> bytes:
    return tar({f"./texts/{number:04d}.txt": document.encode() for number, document in enumerate(documents)})


def webdataset(documents: Sequence[str]) -> bytes:
    samples: dict[str, bytes] = {}
    for number, document in enumerate(documents):
        samples[f"{number:04d}.cls"] = b"3"
        samples[f"{number:04d}.json"] = json.dumps({"text": document, "id": number}).encode()
        samples[f"{number:04d}.png"] = b"\x89PNG\0"
    return tar(samples)


# File name -> the function that makes its content. All of these may also be compressed; Parquet may not.
CONTAINERS: dict[str, Callable[[Sequence[str]], bytes]] = {
    "a.txt": text,
    "a.jsonl": jsonl,
    "wiki_00": jsonl,
    "a.wet": wet,
    "a.warc": warc,
    "a.tar": tar_of_texts,
    "samples.tar": webdataset,
}


def read_file(path: Path, document: str = "blank-line", format: InputName = "auto") -> list[Document | Fault]:
    """The documents of a file, as a build lists and reads it."""
    (file,) = list_inputs(Corpus([str(path)], format=format))
    return list(read_documents(Span(file), Rule(document, "text")))


def texts_of(items: Sequence[Document | Fault]) -> list[str]:
    return [item.text for item in items if isinstance(item, Document)]

"""Corpus URLs -> the input files, named, sorted and numbered the same wherever the corpus lies."""

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from prep.settings import Settings
from shards import storage
from shards.disk import FileInfo
from shards.errors import UserError
from shards.redaction import redacted

COMPRESSIONS = ("gz", "zst")
_FORMATS = {"jsonl": "jsonl", "ndjson": "jsonl", "json": "jsonl", "parquet": "parquet", "pq": "parquet"}
_NOT_TEXT = frozenset(
    [
        "bz2",
        "xz",
        "lz4",
        "zip",
        "7z",
        "rar",
        "tar",
        "tgz",
        "warc",
        "wet",
        "csv",
        "tsv",
        "xls",
        "xlsx",
        "xml",
        "html",
        "htm",
        "pdf",
        "doc",
        "docx",
        "odt",
        "epub",
        "arrow",
        "feather",
        "orc",
        "avro",
        "npy",
        "npz",
        "h5",
        "hdf5",
        "pkl",
        "pickle",
        "db",
        "sqlite",
        "bin",
        "exe",
        "so",
        "png",
        "jpg",
        "jpeg",
        "gif",
        "mp3",
        "mp4",
        "wav",
        "pt",
        "safetensors",
    ]
)


@dataclass(frozen=True)
class InputFile:
    """One file of the corpus. `name` is its path below the folder that all inputs share; `ordinal` its place by name."""

    ordinal: int
    name: str
    url: str
    bytes: int
    version: str
    format: str  # text, jsonl or parquet
    compression: str  # "", gz or zst

    @property
    def splittable(self) -> bool:
        """Whether a part of the file can be read without what is before it."""
        return not self.compression

    def identity(self) -> dict[str, str | int]:
        """What the manifest keeps of a file."""
        return {"name": self.name, "bytes": self.bytes}


def list_inputs(settings: Settings) -> list[InputFile]:
    """The files of `--corpus`, sorted by name; what lies in `--out` or `--scratch` is none of them.

    Raises UserError for a URL that names nothing, or a file of no known format.
    """
    written = [storage.absolute(url) + "/" for url in (settings.out, settings.scratch)]
    found: dict[str, FileInfo] = {}
    for url in settings.corpus:
        infos = {storage.absolute(info.url): info for info in _expand(url)}
        ours = {path: info for path, info in infos.items() if not path.startswith(tuple(written))}
        if not ours:
            raise UserError(f"--corpus {url}: all of it lies in --out or --scratch, where this build writes; choose others")
        found |= {path: info for path, info in ours.items() if path not in found}
    folders = [redacted(path).split("/")[:-1] for path in found]
    shared = len(posixpath.commonprefix(folders))
    names = (("/".join(redacted(path).split("/")[shared:]), info) for path, info in found.items())
    named = sorted(names, key=lambda pair: (pair[0], pair[1].url))
    return [
        InputFile(ordinal, name, info.url, info.bytes, info.version, *_format(name, info.url, settings.input))
        for ordinal, (name, info) in enumerate(named)
    ]


def _expand(url: str) -> Sequence[FileInfo]:
    single = storage.find(url)
    if single:
        return [single]
    pattern = any(character in url for character in "*?[")
    found = [info for info in storage.list_files(url) if not _hidden(storage.relative(info.url, url), (".", "_"))]
    if pattern and not found:
        asked = posixpath.basename(url).startswith(".")
        found = [info for info in storage.glob(url) if asked or not _hidden(posixpath.basename(info.url), (".",))]
    if not found:
        raise UserError(f"--corpus {url}: " + ("no file matches" if pattern else "no such file, or a folder without files"))
    return found


def _hidden(path: str, marks: tuple[str, ...]) -> bool:
    return any(part.startswith(marks) for part in path.split("/"))


def _format(name: str, url: str, asked: str) -> tuple[str, str]:
    path = name.partition("?")[0] if url.startswith(("http://", "https://")) else name
    parts = posixpath.basename(path).lower().split(".")[1:]
    compression = parts.pop() if parts and parts[-1] in COMPRESSIONS else ""
    ending = parts[-1] if parts else ""
    if asked == "auto" and ending in _NOT_TEXT:
        raise UserError(
            f"{url}: .{ending} is no format that can be read: plain text, .jsonl and .parquet can, text and .jsonl also as "
            ".gz and .zst; convert it, or name its format with --input"
        )
    kind = _FORMATS.get(ending, "text") if asked == "auto" else asked
    if kind == "parquet" and compression:
        raise UserError(f"{url}: a Parquet file is compressed inside; unpack the .{compression} around it")
    return kind, compression

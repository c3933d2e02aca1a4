"""Corpus URLs -> the input files, named, sorted and numbered the same wherever the corpus lies."""

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from prep.settings import Settings
from shards import storage
from shards.errors import UserError
from shards.storage import FileInfo

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
    """The files of `--corpus`, sorted by name. Raises UserError for a URL that names nothing, or a file of no known format."""
    found: dict[str, FileInfo] = {}
    for url in settings.corpus:
        for info in _expand(url):
            found.setdefault(_without_protocol(info.url), info)
    for url in (settings.out, settings.scratch):
        inside = [path for path in found if path.startswith(_without_protocol(url).rstrip("/") + "/")]
        if inside:
            raise UserError(f"the corpus holds {inside[0]}, which lies in {url} where this build writes; move one of them")
    paths = sorted(found)
    common = posixpath.dirname(paths[0]) if len(paths) == 1 else posixpath.commonpath([posixpath.dirname(p) for p in paths])
    named = sorted((path[len(common) :].lstrip("/"), found[path]) for path in paths)
    return [
        InputFile(ordinal, name, info.url, info.bytes, info.version, *_format(name, info.url, settings.input))
        for ordinal, (name, info) in enumerate(named)
    ]


def _expand(url: str) -> Sequence[FileInfo]:
    single = storage.find(url)
    if single:
        return [single]
    if any(character in url for character in "*?["):
        infos = storage.glob(url)
        if not infos:
            raise UserError(f"--corpus {url}: no file matches")
        return infos
    infos = [info for info in storage.list_files(url) if not _hidden(info.url[len(url.rstrip("/")) :])]
    if not infos:
        raise UserError(f"--corpus {url}: no such file, or a folder without files")
    return infos


def _hidden(relative: str) -> bool:
    return any(part.startswith((".", "_")) for part in relative.split("/") if part)


def _without_protocol(url: str) -> str:
    """An absolute path for a local file, so that the folder all inputs share can be found."""
    if not storage.is_local(url):
        return url
    return os.path.abspath(storage.local_path(url))  # noqa: PTH100  # links stay as they are: their targets' names mean nothing


def _format(name: str, url: str, asked: str) -> tuple[str, str]:
    parts = posixpath.basename(name).lower().split(".")[1:]
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

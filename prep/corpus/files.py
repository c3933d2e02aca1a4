"""Corpus URLs -> the input files, named, sorted and numbered the same wherever the corpus lies."""

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

from prep.corpus.compression import COMPRESSIONS, DAMAGED_STREAM, decompressed
from prep.settings import Settings
from shards import storage
from shards.errors import UserError
from shards.storage.disk import FileInfo
from shards.storage.redaction import redacted

_FORMATS = {
    **dict.fromkeys(("jsonl", "ndjson", "json"), "jsonl"),
    **dict.fromkeys(("parquet", "pq"), "parquet"),
    **dict.fromkeys(("warc", "wet"), "warc"),
    "tar": "tar",
}
_SHORT = {"tgz": ("tar", "gz"), "tbz2": ("tar", "bz2"), "txz": ("tar", "xz"), "tzst": ("tar", "zst")}
_WIKIEXTRACTOR = re.compile(r"wiki_\d+")
"""How wikiextractor names its files, which hold JSON lines or its own markup."""
_TEXT = frozenset(("txt", "text", "md"))
_NOT_TEXT = (
    frozenset(
        ("lz4", "zip", "7z", "rar", "csv", "tsv", "xls", "xlsx", "xml", "html", "htm", "pdf", "doc", "docx", "odt", "epub")
    )
    | frozenset(
        ("arrow", "feather", "orc", "avro", "npy", "npz", "h5", "hdf5", "pkl", "pickle", "db", "sqlite", "bin", "exe", "so")
    )
    | frozenset(("png", "jpg", "jpeg", "gif", "mp3", "mp4", "wav", "pt", "safetensors"))
)
_OF_A_HUB = frozenset(("readme.md", "dataset_infos.json", "license", "license.txt", "license.md"))
"""What lies beside the data in a data set of the hub."""


@dataclass(frozen=True)
class InputFile:
    """One file of the corpus. `name` is its path below the folder that all inputs share; `ordinal` its place by name."""

    ordinal: int
    name: str
    url: str
    bytes: int
    version: str
    format: str  # text, jsonl, parquet, warc or tar
    compression: str  # "", gz, zst, bz2 or xz
    corpus: int = 0  # the first --corpus that names it

    @property
    def splittable(self) -> bool:
        """Whether a part of the file can be read without what is before it."""
        return not self.compression and self.format not in ("warc", "tar")

    def identity(self, weights: Sequence[float]) -> dict[str, str | int | float]:
        """What the manifest keeps of a file, its weight too where there are `weights`."""
        identity: dict[str, str | int | float] = {"name": self.name, "bytes": self.bytes}
        return identity | {"weight": weights[self.corpus]} if weights else identity


def list_inputs(settings: Settings) -> list[InputFile]:
    """The files of `--corpus`, sorted by name; what lies in `--out` or `--scratch` is none of them.

    Raises UserError for a URL that names nothing, or a file of no known format.
    """
    written = [storage.absolute(url) + "/" for url in (settings.out, settings.scratch)]
    found: dict[str, tuple[FileInfo, int]] = {}
    for corpus, url in enumerate(settings.corpus):
        infos = {storage.absolute(info.url): info for info in _expand(url)}
        ours = {path: info for path, info in infos.items() if not path.startswith(tuple(written))}
        if not ours:
            raise UserError(f"--corpus {url}: all of it lies in --out or --scratch, where this build writes; choose others")
        fresh = {path: (info, corpus) for path, info in ours.items() if path not in found}
        if not fresh and settings.corpus_weight:
            raise UserError(f"--corpus {url}: all of it belongs to a --corpus before it, so its weight would be of nothing")
        found |= fresh
    folders = [redacted(path).split("/")[:-1] for path in found]
    shared = len(posixpath.commonprefix(folders))
    names = (("/".join(redacted(path).split("/")[shared:]), *entry) for path, entry in found.items())
    named = sorted(names, key=lambda entry: (entry[0], entry[1].url))
    return [
        InputFile(ordinal, name, info.url, info.bytes, info.version, *_format(name, info.url, settings.input), corpus)
        for ordinal, (name, info, corpus) in enumerate(named)
    ]


def _expand(url: str) -> Sequence[FileInfo]:
    single = storage.find(url)
    if single:
        return [single]
    pattern = any(character in url for character in "*?[")
    found = [info for info in storage.list_files(url) if not _hidden(storage.relative(info.url, url), (".", "_"))]
    if url.startswith("hf://"):
        found = [info for info in found if _is_data(posixpath.basename(info.url))]
    if pattern and not found:
        asked = posixpath.basename(url).startswith(".")
        found = [info for info in storage.glob(url) if asked or not _hidden(posixpath.basename(info.url), (".",))]
    if not found:
        raise UserError(
            f"--corpus {url}: " + ("no file matches" if pattern else "no such file, or a folder without files that can be read")
        )
    return found


def _hidden(path: str, marks: tuple[str, ...]) -> bool:
    return any(part.startswith(marks) for part in path.split("/"))


def _is_data(name: str) -> bool:
    """Whether a file of the hub is of a format that can be read, and not one of those that lie beside the data."""
    kind, _, ending = _by_name(name)
    return name.lower() not in _OF_A_HUB and (kind != "text" or ending in _TEXT)


def is_of_another_format(name: str) -> bool:
    """Whether a name says that a file is anything but plain text."""
    kind, compression, ending = _by_name(name)
    return kind != "text" or bool(compression) or ending in _NOT_TEXT


def _by_name(name: str) -> tuple[str, str, str]:
    """Format and compression as the name says them, and its ending without that of the compression."""
    parts = posixpath.basename(name).lower().split(".")[1:]
    if parts and parts[-1] in _SHORT:
        return *_SHORT[parts[-1]], "tar"
    compression = parts.pop() if parts and parts[-1] in COMPRESSIONS else ""
    ending = parts[-1] if parts else ""
    return _FORMATS.get(ending, "text"), compression, ending


def _format(name: str, url: str, asked: str) -> tuple[str, str]:
    name = name.partition("?")[0] if url.startswith(("http://", "https://")) else name
    kind, compression, ending = _by_name(name)
    if asked == "auto" and ending in _NOT_TEXT:
        raise UserError(
            f"{url}: .{ending} is no format that can be read: plain text, .jsonl, .parquet, .warc, .wet and .tar can, and all "
            "but Parquet as .gz, .zst, .bz2 and .xz; convert it, or name its format with --input"
        )
    if asked == "auto" and kind == "text" and _WIKIEXTRACTOR.fullmatch(posixpath.basename(name).split(".")[0]):
        kind = _wikiextractor_format(url, compression)
    kind = kind if asked == "auto" else asked
    if kind == "parquet" and compression:
        raise UserError(f"{url}: a Parquet file is compressed inside; unpack the .{compression} around it")
    return kind, compression


def _wikiextractor_format(url: str, compression: str) -> str:
    """JSON lines where the file begins as one. Raises UserError for the markup that wikiextractor writes otherwise."""
    with storage.open_read(url) as file:
        try:
            start = decompressed(file, compression).read(5)
        except DAMAGED_STREAM:
            return "jsonl"  # the task that reads it says what is wrong
    if start.startswith(b"<doc "):
        raise UserError(f"{url}: is in wikiextractor's own markup; run wikiextractor with --json, or choose --input text")
    return "jsonl" if start.startswith(b"{") else "text"

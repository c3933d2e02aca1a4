"""Corpus URLs -> the input files, named, sorted and numbered the same wherever the corpus lies."""

import posixpath
import re
from collections.abc import Sequence
from typing import NamedTuple

from prep.corpus.compression import DAMAGED_STREAM, decompressed
from prep.corpus.documents import InputFile
from prep.corpus.names import FormatName, InputName, by_name
from shards import storage
from shards.errors import UserError
from shards.storage.disk import FileInfo
from shards.storage.redaction import redacted

# wikiextractor names its files like this. They hold JSON lines or its own markup.
_WIKIEXTRACTOR = re.compile(r"wiki_\d+")
_TEXT = frozenset(("txt", "text", "md"))
# Files beside the data in a data set of the hub.
_BESIDE_THE_DATA = frozenset(("readme.md", "dataset_infos.json", "license", "license.txt", "license.md"))
_HIDDEN = (".", "_")


class Corpus(NamedTuple):
    """What to list, and how."""

    urls: Sequence[str]
    written: Sequence[str] = ()  # folders that the build writes to: nothing in them is listed
    format: InputName = "auto"
    pass_over: bool = False  # whether files of formats that cannot be read are passed over, and counted
    weighted: bool = False


def list_inputs(corpus: Corpus) -> list[InputFile]:
    """The files of the corpus, sorted by name.

    Raises UserError for a URL that names nothing, and for a file of a format that cannot be read.
    """
    listed = _listed(corpus)
    folders = [redacted(path).split("/")[:-1] for path in listed]
    num_shared = len(posixpath.commonprefix(folders))
    names = (("/".join(redacted(path).split("/")[num_shared:]), *entry) for path, entry in listed.items())
    named = sorted(names, key=lambda entry: (entry[0], entry[1].url))
    return [
        InputFile(ordinal, name, info.url, info.bytes, info.version, *_format(name, info.url, corpus), index)
        for ordinal, (name, info, index) in enumerate(named)
    ]


def _listed(corpus: Corpus) -> dict[str, tuple[FileInfo, int]]:
    """Each file once, by its absolute URL, with the index of the first URL of the corpus that names it."""
    written = tuple(storage.absolute(url) + "/" for url in corpus.written)
    listed: dict[str, tuple[FileInfo, int]] = {}
    for index, url in enumerate(corpus.urls):
        infos = {storage.absolute(info.url): info for info in _expand(url)}
        inputs = {path: info for path, info in infos.items() if not path.startswith(written)}
        if not inputs:
            raise UserError(f"--corpus {url}: all its files are in --out or --scratch, where this build writes; choose others")
        new = {path: (info, index) for path, info in inputs.items() if path not in listed}
        if not new and corpus.weighted:
            raise UserError(
                f"--corpus {url} adds no new files: all are in an earlier --corpus, so its weight would have no effect; leave "
                "it out"
            )
        listed |= new
    return listed


def _expand(url: str) -> Sequence[FileInfo]:
    single = storage.find(url)
    if single:
        return [single]
    pattern = any(character in url for character in "*?[")
    infos = storage.list_files(url, hidden=_HIDDEN)
    if url.startswith("hf://"):
        infos = [info for info in infos if _is_data(posixpath.basename(info.url))]
    if pattern and not infos:
        infos = storage.glob(url, hidden=() if posixpath.basename(url).startswith(".") else (".",))
    if not infos:
        problem = "no file matches" if pattern else "no such file, or a folder without files that can be read"
        raise UserError(f"--corpus {url}: {problem}; check the path")
    return infos


def _is_data(name: str) -> bool:
    """Whether a file of the hub is of a format that can be read, and not one of those beside the data."""
    kind, _, ending = by_name(name)
    return name.lower() not in _BESIDE_THE_DATA and kind != "other" and (kind != "text" or ending in _TEXT)


def _format(name: str, url: str, corpus: Corpus) -> tuple[FormatName, str]:
    """Format and compression, by `--input` and the name."""
    name = name.partition("?")[0] if url.startswith(("http://", "https://")) else name
    kind, compression, ending = by_name(name)
    if corpus.format != "auto":
        return corpus.format, compression
    if kind == "other" and not corpus.pass_over:
        raise UserError(
            f"{url}: .{ending} is no format that can be read: plain text, .jsonl, .parquet, .warc, .wet and .tar can, and all "
            "but Parquet as .gz, .zst, .bz2 and .xz; convert it, name its format with --input, or pass such files over with "
            "--on-error skip"
        )
    if kind == "text" and _WIKIEXTRACTOR.fullmatch(posixpath.basename(name).split(".")[0]):
        kind = _wikiextractor_format(url, compression)
    return kind, compression


def _wikiextractor_format(url: str, compression: str) -> FormatName:
    """JSON lines if the file begins as one. Raises UserError for the markup that wikiextractor writes otherwise."""
    with storage.open_read(url) as file:
        try:
            start = decompressed(file, (compression,) if compression else (), url).read(5)
        except DAMAGED_STREAM:
            return "jsonl"  # the task that reads it reports the fault
    if start.startswith(b"<doc "):
        raise UserError(f"{url}: is in wikiextractor's own markup; run wikiextractor with --json, or choose --input text")
    return "jsonl" if start.startswith(b"{") else "text"

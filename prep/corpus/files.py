"""Corpus URLs -> the input files, with the same names wherever the corpus lies."""

import posixpath
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from prep.corpus.compression import DAMAGED_STREAM, decompressed
from prep.corpus.documents import name_key
from prep.corpus.inputs import Inputs, InputsBuilder, Kind, Root, name_of
from prep.corpus.names import FormatName, InputName, by_name
from shards import storage
from shards.errors import UserError
from shards.storage.disk import FileInfo

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


def list_inputs(corpus: Corpus) -> Inputs:
    """The files of the corpus, each once, sorted by name.

    Raises UserError for a URL that names nothing, and for a file of a format that cannot be read.
    """
    builder = InputsBuilder()
    written = tuple(storage.absolute(url) + "/" for url in corpus.written)
    for index, url in enumerate(corpus.urls):
        earlier = set(builder.places().tolist()) if index else set[int]()
        num_listed = num_new = num_inputs = 0
        for root, path, place, info in _expand(url):
            num_listed += 1
            if place.startswith(written):
                continue
            num_inputs += 1
            if name_key(place) not in earlier:
                num_new += 1
                kind = Kind(*_format(name_of(root, path), info.url, corpus))
                builder.add(root, path, info.bytes, info.version, kind, index, place)
        if not num_inputs:
            raise UserError(f"--corpus {url}: all its files are in --out or --scratch, where this build writes; choose others")
        if not num_new and corpus.weighted:
            raise UserError(
                f"--corpus {url} adds no new files: all are in an earlier --corpus, so its weight would have no effect; leave "
                "it out"
            )
    return builder.finish()


def _expand(url: str) -> Iterator[tuple[Root, str, str, FileInfo]]:
    """What a URL of --corpus names. Of each file: what it has in common with others, its path below that, its place."""
    place = storage.absolute(url)
    single = storage.find(url)
    if single:
        yield _split(single, storage.absolute(single.url), posixpath.dirname(place), "")
        return
    pattern = any(character in url for character in "*?[")
    infos = storage.iter_files(url, hidden=_HIDDEN)
    if url.startswith("hf://"):
        infos = (info for info in infos if _is_data(posixpath.basename(info.url)))
    label = posixpath.basename(place)
    first = next(infos, None)
    if first is None and pattern:
        infos = iter(storage.glob(url, hidden=() if posixpath.basename(url).startswith(".") else (".",)))
        place, label = _fixed_part(place), ""
        first = next(infos, None)
    if first is None:
        problem = "no file matches" if pattern else "no such file, or a folder without files that can be read"
        raise UserError(f"--corpus {url}: {problem}; check the path")
    start = len(first.url) - len(storage.relative(first.url, place))  # every URL here begins as the first does, up to there
    for info in chain([first], infos):
        yield _split(info, f"{place.rstrip('/')}/{info.url[start:]}", place, f"{label}/" if label else "")


def _split(info: FileInfo, place: str, folder: str, label: str) -> tuple[Root, str, str, FileInfo]:
    path = place.removeprefix(folder).lstrip("/")
    return Root(info.url.removesuffix(path), label), path, place, info


def _fixed_part(pattern: str) -> str:
    """The folder that all files are in that match a pattern."""
    parts = pattern.split("/")
    return "/".join(parts[: next(i for i, part in enumerate(parts) if any(character in part for character in "*?["))])


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

"""The formats that inputs come in, and the one that a file's name names."""

import posixpath
from typing import Literal

from prep.corpus.compression import COMPRESSIONS

FormatName = Literal["text", "jsonl", "parquet", "warc", "tar", "other"]  # other: cannot be read
InputName = Literal["auto", "text", "jsonl", "parquet", "warc", "tar"]  # the choices of --input
_OTHER = (
    "lz4 zip 7z rar csv tsv xls xlsx xml html htm pdf doc docx odt epub arc arrow feather orc avro npy npz h5 hdf5 pkl pickle "
    "db sqlite bin exe so png jpg jpeg gif mp3 mp4 wav pt safetensors"
)
ENDINGS: dict[str, FormatName] = {
    **dict.fromkeys(("jsonl", "ndjson", "json"), "jsonl"),
    **dict.fromkeys(("parquet", "pq"), "parquet"),
    **dict.fromkeys(("warc", "wet"), "warc"),
    "tar": "tar",
    **dict.fromkeys(_OTHER.split(), "other"),
}
_SHORT: dict[str, tuple[FormatName, str]] = {
    "tgz": ("tar", "gz"),
    "tbz2": ("tar", "bz2"),
    "txz": ("tar", "xz"),
    "tzst": ("tar", "zst"),
}
# Endings that name the compression inside a Parquet file, not one around it: pandas' own example writes `df.parquet.gzip`.
_PARQUET_CODECS = ("gz", "gzip", "snappy", "zst", "zstd", "brotli", "br", "lz4", "bz2", "xz")


def by_name(name: str) -> tuple[FormatName, str, str]:
    """Format and compression as the name has them, and its ending without that of the compression."""
    parts = posixpath.basename(name).lower().split(".")[1:]
    if parts and parts[-1] in _SHORT:
        return *_SHORT[parts[-1]], "tar"
    if len(parts) > 1 and parts[-1] in _PARQUET_CODECS and ENDINGS.get(parts[-2]) == "parquet":
        return "parquet", "", parts[-2]
    compression = parts.pop() if parts and parts[-1] in COMPRESSIONS else ""
    ending = parts[-1] if parts else ""
    return ENDINGS.get(ending, "text"), compression, ending


def is_text_name(name: str) -> bool:
    """Whether a name is one of a plain text."""
    kind, compression, _ = by_name(name)
    return kind == "text" and not compression

"""The format that a file's name names."""

import pytest

from prep.corpus.compression import COMPRESSIONS
from prep.corpus.formats import FORMATS
from prep.corpus.names import ENDINGS, by_name, is_text_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a", ("text", "", "")),
        ("dir.tar/a.TXT", ("text", "", "txt")),
        ("a.unknown", ("text", "", "unknown")),
        ("a.jsonl.zst", ("jsonl", "zst", "jsonl")),
        ("a.tgz", ("tar", "gz", "tar")),
        ("a.parquet.gzip", ("parquet", "", "parquet")),
        ("a.gz", ("text", "gz", "")),
        ("a.warc.wet.gz", ("warc", "gz", "wet")),
        ("a.zip", ("other", "", "zip")),
    ],
)
def test_format_compression_and_ending(name: str, expected: tuple[str, str, str]) -> None:
    assert by_name(name) == expected


@pytest.mark.parametrize("compression", ["", *COMPRESSIONS])
def test_a_compression_leaves_the_format_as_it_is(compression: str) -> None:
    for ending, kind in ENDINGS.items():
        name = f"some.name.{ending}.{compression}".rstrip(".")
        around = "" if kind == "parquet" else compression
        assert by_name(name) == (kind, around, ending)
        assert not is_text_name(name)
    assert is_text_name(f"a.txt.{compression}".rstrip(".")) == (not compression)


def test_every_format_of_a_name_has_a_reader() -> None:
    assert {*ENDINGS.values(), "text"} == set(FORMATS)

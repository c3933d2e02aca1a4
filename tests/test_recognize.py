"""Files that are not what their names say: read as what they are, or refused by name; never read as text that they are not."""

import bz2
import gzip
import json
import random
from pathlib import Path

import containers
import pytest
from containers import COMPRESS, read_file, texts_of

from prep.corpus.documents import Fault, InputFile, Rule, Span
from prep.corpus.files import Corpus, list_inputs
from prep.corpus.read import read_documents
from shards.errors import UserError

TEXTS = [f"Text number {i} is about apples.\nIt goes on with pears." for i in range(30)]
RIGHT = {
    "tar.txt": containers.tar_of_texts(TEXTS),
    "tar.bz2": bz2.compress(containers.tar_of_texts(TEXTS)),
    "tar.jsonl.gz": gzip.compress(containers.tar_of_texts(TEXTS)),
    "part-00000": containers.parquet(TEXTS),
    "parquet.txt": containers.parquet(TEXTS),
    "df.parquet.gz": containers.parquet(TEXTS),
    "df.parquet.gzip": containers.parquet(TEXTS),
    "df.parquet.snappy": containers.parquet(TEXTS),
    **{f"text{ending}.txt": pack(containers.text(TEXTS)) for ending, pack in COMPRESS.items()},
    **{f"lines{ending}.jsonl": pack(containers.jsonl(TEXTS)) for ending, pack in COMPRESS.items()},
    "zst.txt.gz": COMPRESS[".zst"](containers.text(TEXTS)),
    "plain.txt.gz": containers.text(TEXTS),
    "plain.jsonl.zst": containers.jsonl(TEXTS),
    "twice.txt.gz": gzip.compress(gzip.compress(containers.text(TEXTS))),
    "tar.gz.tar": gzip.compress(containers.tar_of_texts(TEXTS)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_file_is_read_as_what_its_first_bytes_show(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(RIGHT[name])
    assert texts_of(read_file(tmp_path / name)) == TEXTS


def test_a_file_that_was_cut_into_spans_by_its_name_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "part-00000"
    for content in (containers.parquet(TEXTS), gzip.compress(containers.text(TEXTS))):
        path.write_bytes(content)
        file = InputFile(path.name, str(path), len(content), "", "text", "")
        spans = [Span(file, 0, 100), Span(file, 100, 200), Span(file, 200, None)]
        found = [item for span in spans for item in read_documents(span, Rule("blank-line", "text"))]
        assert texts_of(found) == TEXTS


REFUSED = {
    "a.txt": (b"filedesc://x.arc 0.0.0.0 20080101 text/plain 76\n1 0 Org\n", "an ARC file"),
    "b.gz": (gzip.compress(b"filedesc://x.arc 0.0.0.0 20080101 text/plain 76\n1 0 Org\n"), "an ARC file"),
    "c.txt": (containers.warc(TEXTS), r"a WARC file; name it \.warc, or set --input warc"),
    "d.parquet.gz": (gzip.compress(containers.parquet(TEXTS)), "a Parquet file inside gz"),
    "e.parquet": (b"id,text\n1,words\n", "no Parquet file"),
    "f.txt": (b"PK\x03\x04" + bytes(40), "a zip file"),
    "g.txt": (b"%PDF-1.7\n" + bytes(40), "a PDF"),
    "h.jsonl": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
    "i.txt": ("\ufeffText".encode("utf-16-le"), "UTF-16"),
    "j.parquet": (b"PARE" + bytes(40) + b"PARE", "an encrypted Parquet file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_by_name(name: str, tmp_path: Path) -> None:
    content, problem = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: is .*{problem}"):
        read_file(tmp_path / name)


def test_a_binary_file_is_one_fault_and_no_document(tmp_path: Path) -> None:
    content = b"".join(b"line %d\n\x00\x01\x02\x03\n" % i for i in range(100))
    (tmp_path / "a.txt").write_bytes(content)
    (fault,) = read_file(tmp_path / "a.txt", "line")
    assert isinstance(fault, Fault) and (fault.reason, fault.num_bytes) == ("not_text", len(content))


def test_a_nul_in_a_text_costs_its_document_alone(tmp_path: Path) -> None:
    lines = [f"line {i} of a text" for i in range(300)]
    lines[200] = "line \0 of a text"
    (tmp_path / "a.txt").write_text("\n".join(lines))
    found = read_file(tmp_path / "a.txt", "line")
    assert texts_of(found) == lines[:200] + lines[201:]
    assert [item.reason for item in found if isinstance(item, Fault)] == ["not_text"]


@pytest.mark.parametrize("text", ["PAR1 is a word", "BZh9 is one too", "ORC and ARROW1", "WARC/1.0 is a format", "ustar"])
def test_a_text_may_begin_with_any_words(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"{text}\nand more\n")
    assert texts_of(read_file(tmp_path / "a.txt", "line")) == [text, "and more"]


def test_a_damaged_beginning_is_damage(tmp_path: Path) -> None:
    for name, content in (("a.txt.gz", bytes(500)), ("a.jsonl.zst", b"\x28\xb5\x2f\xfd\xff\xff\xff"), ("a.parquet", bytes(99))):
        (tmp_path / name).write_bytes(content)
        (fault,) = read_file(tmp_path / name)
        assert isinstance(fault, Fault) and fault.reason == "damaged"


def test_a_zstd_frame_with_the_largest_window_is_read(tmp_path: Path) -> None:
    from prep.corpus import compression

    options = {compression.zstd.CompressionParameter.window_log: 31}
    packed = compression.zstd.ZstdCompressor(options=options)
    content = packed.compress(containers.jsonl(TEXTS)) + packed.flush()
    (tmp_path / "a.jsonl.zst").write_bytes(content)
    assert texts_of(read_file(tmp_path / "a.jsonl.zst")) == TEXTS


def test_a_zstd_frame_that_needs_a_dictionary_is_refused_not_damaged(tmp_path: Path) -> None:
    from prep.corpus import compression

    samples = [json.dumps({"text": f"{i} {text}"}).encode() for i, text in enumerate(TEXTS * 20)]
    dictionary = compression.zstd.train_dict(samples, 2000)
    (tmp_path / "a.jsonl.zst").write_bytes(compression.zstd.compress(containers.jsonl(TEXTS), zstd_dict=dictionary))
    with pytest.raises(UserError, match=r"a\.jsonl\.zst: was compressed with a zstd dictionary; decompress it"):
        read_file(tmp_path / "a.jsonl.zst")


def test_formats_that_cannot_be_read_stop_or_are_passed_over_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words\n")
    (tmp_path / "b.html").write_text("<p>words</p>\n")
    with pytest.raises(UserError, match=r"b\.html: \.html is no format that can be read.*--on-error skip"):
        list_inputs(Corpus([str(tmp_path)]))
    inputs = list_inputs(Corpus([str(tmp_path)], pass_over=True))
    (fault,) = read_documents(Span(inputs[1]), Rule("line", "text"))
    assert isinstance(fault, Fault) and (fault.reason, fault.num_bytes) == ("not_text", 13)


@pytest.mark.long
def test_a_zstd_match_may_be_hundreds_of_megabytes_away(tmp_path: Path) -> None:
    """The last document is the first one again, found 270 MB before: the decoder must keep a window of that size."""
    from prep.corpus import compression

    parameters = compression.zstd.CompressionParameter
    options = {parameters.window_log: 29, parameters.enable_long_distance_matching: 1, parameters.compression_level: 1}
    packed = compression.zstd.ZstdCompressor(options=options)
    first, filler = random.Random(0).randbytes(100_000).hex(), "many words " * 90_000
    lines = [first, *[filler] * 273, first]
    content = b"".join(packed.compress(f"{line}\n".encode()) for line in lines) + packed.flush()
    assert len(content) < 300_000 and sum(map(len, lines)) > 270_000_000
    (tmp_path / "a.txt.zst").write_bytes(content)
    texts = texts_of(read_file(tmp_path / "a.txt.zst", "line"))
    assert len(texts) == len(lines) and texts[0] == texts[-1] == first

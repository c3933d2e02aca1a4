"""A corpus that grows: what is tokenized again, and that the data are those of a build from scratch."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import manifest_of, run_prep
from conftest import BuildRunner

from prep.corpus.files import Corpus, list_inputs


def write(folder: Path, texts: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf8")
    return folder


def documents_of_units(scratch: Path) -> dict[str, int]:
    """The records of units in a scratch folder, with the time that each was written at."""
    return {path.name: path.stat().st_mtime_ns for path in scratch.glob("tokens-*/*.json") if "-" not in path.name}


@pytest.fixture
def texts(paragraphs: Sequence[str]) -> dict[str, str]:
    return {f"{number:04}.txt": "\n".join(paragraphs[number % 900 : number % 900 + 2]) + "\n" for number in range(1000)}


def test_a_file_that_is_added_costs_only_itself(texts: dict[str, str], build: BuildRunner, tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", texts)
    build(corpus, name="before")
    units = documents_of_units(tmp_path / "scratch")
    write(corpus, {"new.txt": "A new file. It has two sentences.\n" * 3})
    grown = build(corpus, name="after")
    added = {name: time for name, time in documents_of_units(tmp_path / "scratch").items() if units.get(name) != time}
    assert 0 < len(added) < 0.02 * len(units)
    assert manifest_of(grown) == manifest_of(build(corpus, name="fresh", scratch="other"))


@pytest.mark.parametrize("change", ["mend", "remove", "corpus"])
def test_a_corpus_that_changes_is_that_of_a_build_from_scratch(
    change: str, texts: dict[str, str], build: BuildRunner, tmp_path: Path
) -> None:
    corpus = write(tmp_path / "corpus", dict(list(texts.items())[:200]))
    extra: list[object] = []
    build(corpus, name="before")
    units = documents_of_units(tmp_path / "scratch")
    if change == "mend":
        write(corpus, {"0007.txt": "Now another text. It is mended.\n"})
    elif change == "remove":
        (corpus / "0007.txt").unlink()
    else:
        extra = ["--corpus", corpus, write(tmp_path / "more", {"0007.txt": "Another corpus. It has one file.\n"})]
    grown = build(corpus, *extra, name="after")
    added = documents_of_units(tmp_path / "scratch").keys() - units.keys()
    assert len(added) <= 3
    assert manifest_of(grown) == manifest_of(build(corpus, *extra, name="fresh", scratch="other"))


def test_a_large_file_that_is_added_leaves_the_units_of_another(
    build: BuildRunner, tmp_path: Path, paragraphs: list[str]
) -> None:
    corpus = write(tmp_path / "corpus", {"a.txt": "\n".join(paragraphs * 4)})
    assert (corpus / "a.txt").stat().st_size > 4 << 20, "it is cut"
    build(corpus, name="before")
    units = documents_of_units(tmp_path / "scratch")
    shutil.copy(corpus / "a.txt", corpus / "b.txt")
    build(corpus, name="after")
    after = documents_of_units(tmp_path / "scratch")
    assert len(units) > 1 and len(after) == 2 * len(units) and all(after[name] == time for name, time in units.items())


def test_a_trained_vocabulary_can_be_passed_on(texts: dict[str, str], tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", dict(list(texts.items())[:50]))
    places = ("--corpus", corpus, "--scratch", tmp_path / "scratch", "--workers", 1)
    first = run_prep("build", *places, "--out", tmp_path / "first", "--tokenizer", "train:300")
    (line,) = (line for line in first.stderr.splitlines() if "if the corpus grows, --tokenizer " in line)
    vocabulary = line.partition("--tokenizer ")[2].partition(" keeps its tokens")[0]
    units = documents_of_units(tmp_path / "scratch")
    write(corpus, {"new.txt": "A new file. It has two sentences.\n" * 3})
    second = run_prep("build", *places, "--out", tmp_path / "second", "--tokenizer", vocabulary)
    assert second.returncode == 0, second.stderr
    assert len(documents_of_units(tmp_path / "scratch").keys() - units.keys()) <= 2
    assert manifest_of(tmp_path / "second")["tokenizer"] == manifest_of(tmp_path / "first")["tokenizer"]


def test_names_in_a_bucket_are_those_on_a_disk(bucket: Any, tmp_path: Path) -> None:
    for path in ("a/wiki/x.txt", "a/wiki/AA/x.txt", "b/wiki/x.txt", "b/wiki/y=1.txt", "c.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"words of {path}\n")
        bucket.upload_file(str(tmp_path / path), "bucket", path)
    for urls in (["a/wiki", "b/wiki", "c.txt"], ["b/wiki/*.txt", "a/wiki/"], ["a/**/x.txt", "b/wiki"]):
        disk, remote = (
            [(file.name, file.bytes, file.corpus) for file in list_inputs(Corpus([f"{place}/{url}" for url in urls]))]
            for place in (tmp_path, "s3://bucket")
        )
        assert disk == remote and len(disk) >= 3
    renamed = list_inputs(Corpus(["s3://bucket/a/wiki", f"{tmp_path}/b/wiki"])).renamed()
    assert [file.name for file in renamed] == ["wiki/x.txt~2"]


def test_a_build_names_a_file_that_gets_a_suffix(build: BuildRunner, vocabulary: Path, tmp_path: Path) -> None:
    lines = "One document. It has two sentences.\n" * 4
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        write(tmp_path / place / "wiki", {"x.txt": lines + f"{place} is different. Really.\n" * 2})
    places = ("--out", tmp_path / "out", "--scratch", tmp_path / "scratch", "--tokenizer", vocabulary)
    done = run_prep("plan", "--corpus", tmp_path / "a" / "wiki", tmp_path / "b" / "wiki", *places)
    assert (
        f"note: {tmp_path}/b/wiki/x.txt has the name of a file in an earlier --corpus; here it is called wiki/x.txt~2"
        in done.stderr
    )

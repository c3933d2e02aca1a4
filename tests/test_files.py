"""What is listed of a corpus."""

from pathlib import Path

import pytest
from commands import run_prep
from containers import texts_of

from prep.corpus.documents import Rule, Span, name_key
from prep.corpus.files import Corpus, list_inputs
from prep.corpus.read import read_documents
from shards.errors import UserError


def names(folder: Path) -> list[str]:
    return [file.name for file in list_inputs(Corpus([str(folder)]))]


def test_hidden_names_are_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("words\n")
    (tmp_path / ".#notes.txt").symlink_to("me@host.1:2")
    (tmp_path / "_dead").symlink_to("nowhere")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").symlink_to("nowhere")
    assert names(tmp_path) == [f"{tmp_path.name}/notes.txt"]


@pytest.mark.parametrize("corpus", ["", "*.txt", "n*", "**/*.txt", "notes.txt", "dead folder"])
@pytest.mark.parametrize("command", ["plan", "build"])
def test_a_dead_link_of_an_ordinary_name_is_named(command: str, corpus: str, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("words\n")
    name = corpus if corpus == "dead folder" else "notes.txt"
    (folder / name).symlink_to("nowhere")
    places = ("--out", tmp_path / "out", *(("--scratch", tmp_path / "scratch") if command == "build" else ()))
    done = run_prep(command, "--corpus", folder / corpus, *places, "--tokenizer", "train:100")
    assert done.returncode == 2
    assert done.stderr == f"prep: error: {folder / name}: cannot list it: it is a link to nothing; check the path\n"


def test_a_pattern_passes_over_dead_links_that_it_does_not_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words\n")
    (tmp_path / ".#a.txt").symlink_to("me@host.1:2")
    (tmp_path / "b.md").symlink_to("nowhere")
    assert names(tmp_path / "*.txt") == ["a.txt"]


def test_any_name_on_a_disk_is_a_path(tmp_path: Path) -> None:
    for name in ("std::vector.txt", "a#b?c[1].txt", "12:30 s3:bucket.txt", "ünïcode %41.txt"):
        (tmp_path / name).write_text(f"the words of {name}\n")
    (tmp_path / "a::b").mkdir()
    (tmp_path / "a::b" / "c.txt").write_text("inside\n")
    inputs = list_inputs(Corpus([str(tmp_path)]))
    read = {file.name: texts_of(list(read_documents(Span(file), Rule("line", "text")))) for file in inputs}
    expected = {path.name: [f"the words of {path.name}"] for path in tmp_path.glob("*.txt")}
    expected = {f"{tmp_path.name}/{name}": texts for name, texts in expected.items()}
    assert read == expected | {f"{tmp_path.name}/a::b/c.txt": ["inside"]}


def test_a_corpus_that_adds_nothing_has_no_weight(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words\n")
    with pytest.raises(UserError, match="adds no new files"):
        list_inputs(Corpus([str(tmp_path), str(tmp_path / "a.txt")], weighted=True))


def test_a_name_begins_with_the_last_component_of_its_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("wiki/AA/x.txt", "wiki/AB/x.txt", "books/y.txt", "z.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("words\n")

    def named(*urls: str) -> list[str]:
        return [file.name for file in list_inputs(Corpus([f"{tmp_path}/{url}" for url in urls]))]

    assert named("wiki", "books/", "z.txt") == ["books/y.txt", "wiki/AA/x.txt", "wiki/AB/x.txt", "z.txt"]
    assert named("wiki/*/x.txt") == ["AA/x.txt", "AB/x.txt"], "below the part of the pattern that is fixed"
    assert named("*/y.txt") == ["books/y.txt"] and named("books/*.txt") == named("books/y.txt") == ["y.txt"]
    monkeypatch.chdir(tmp_path / "wiki")
    inputs = list_inputs(Corpus(["."]))
    assert [(file.name, file.url) for file in inputs] == [("wiki/AA/x.txt", "AA/x.txt"), ("wiki/AB/x.txt", "AB/x.txt")]


def test_a_name_that_an_earlier_corpus_has_gets_a_suffix(tmp_path: Path) -> None:
    for path in ("a/wiki/x.txt", "b/wiki/x.txt", "c/wiki/x.txt", "a/wiki/x.txt~2", "b/wiki/y.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"words of {path}\n")
    inputs = list_inputs(Corpus([str(tmp_path / corpus / "wiki") for corpus in "abc"]))
    assert {file.name: file.url.removeprefix(f"{tmp_path}/") for file in inputs} == {
        "wiki/x.txt": "a/wiki/x.txt",
        "wiki/x.txt~2": "a/wiki/x.txt~2",
        "wiki/x.txt~3": "b/wiki/x.txt",
        "wiki/x.txt~4": "c/wiki/x.txt",
        "wiki/y.txt": "b/wiki/y.txt",
    }
    assert [file.name for file in inputs.renamed()] == ["wiki/x.txt~3", "wiki/x.txt~4"]
    assert len({name_key(file.name) for file in inputs}) == 5 and set(inputs.hashes.tolist()) == {
        name_key(file.name) for file in inputs
    }
    assert all(file.format == "text" for file in inputs)

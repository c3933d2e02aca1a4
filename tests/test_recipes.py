"""Every recipe end to end: the same data however it is made, a ledger that balances, and rates inside their intervals."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import manifest_of, run_prep
from conftest import BuildRunner
from corpora import speeches
from test_build import read_rows
from tokenizers_of_all_kinds import KINDS, OPENAI_CONFIG

from prep.tokens.tokenizer import load_prepared
from shards.masking import unmask_rows
from shards.template import Template

RECIPES: dict[str, tuple[object, ...]] = {
    "paragraph": ("--pairing", "paragraph"),
    "sop": ("--pairing", "sop", "--mask-unit", "word", "--copies", 2),
    "none": ("--pairing", "none", "--mask-unit", "span", "--max-seq-len", 512),
    "cross": ("--pairing", "none", "--cross-documents", "--masking", "dynamic", "--short-seq-prob", 0.1),
    "rates": ("--mask-prob", 0.3, "--mask-replace-prob", 0.5, "--random-replace-prob", 0.25, "--pack-to", 0),
    "dedup": ("--dedup", "exact", "--sentences", "fullstop", "--format", "webdataset"),
    "roberta": ("--pairing", "none", "--cross-documents", "--mask-unit", "span", "--tokenizer", "roberta"),
    "albert": ("--pairing", "sop", "--mask-unit", "ngram", "--tokenizer", "albert"),
    "document": ("--pairing", "document", "--document-overlap", 9, "--tokenizer", "roberta", "--copies", 2),
    "openai": ("--pairing", "nsp", "--mask-unit", "word", "--tokenizer", "openai"),
}


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Speeches of the demo corpus, a paragraph of several sentences each, some of them twice."""
    lines = [line.strip() for path in speeches()[::4] for line in path.read_text(encoding="utf8").splitlines()]
    texts = list(dict.fromkeys(line for line in lines if line.count(". ") > 1))
    return texts + texts[: len(texts) // 10]


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """A folder with the corpus and the tokenizers."""
    folder = tmp_path_factory.mktemp("material")
    (folder / "corpus.txt").write_text("\n".join(texts) + "\n", encoding="utf8")
    for name, make in KINDS.items():
        (folder / name).mkdir()
        make(texts[:800]).save(str(folder / name / "tokenizer.json"))
    (folder / "openai" / "tokenizer_config.json").write_text(OPENAI_CONFIG)
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe(name: str, material: Path, vocabulary: Path, texts: list[str], tmp_path: Path) -> None:
    tokenizer = ("--tokenizer", vocabulary) if "--tokenizer" not in RECIPES[name] else ()
    outs = []
    for workers in (1, 2):
        out = tmp_path / f"out-{workers}"
        places = ("--corpus", "corpus.txt", "--out", out, "--scratch", tmp_path / f"scratch-{workers}", "--workers", workers)
        done = run_prep("build", *places, *tokenizer, *RECIPES[name], cwd=material)
        assert done.returncode == 0, done.stderr
        outs.append(manifest_of(out))
    assert outs[0] == outs[1], "whole manifests are equal"
    assert run_prep("verify", tmp_path / "out-1").stdout.endswith("nothing wrong\n"), "ledger, words, templates, counts"
    ledger = outs[0]["ledger"]
    assert ledger["documents"]["in"] == len(texts)
    if name == "dedup":
        different = len(set(texts))
        assert ledger["documents"]["used"] == different
        assert ledger["documents"]["dropped"] == {"duplicate": len(texts) - different}
    check_rates(tmp_path / "out-1", outs[0])
    check_text(tmp_path / "out-1", outs[0], texts)


def share_is(count: int, total: int, expected: float, design_effect: float = 1.0) -> None:
    """A measured share lies in the 99.9 % interval around what was asked."""
    assert abs(count / total - expected) < 3.29 * math.sqrt(design_effect * expected * (1 - expected) / total) + 1e-9


def check_rates(out: Path, manifest: dict[str, Any]) -> None:
    settings, special = manifest["settings"], manifest["tokenizer"]["special_ids"]
    selected = masked = stayed = tokens = 0
    for split in ("train", "eval"):
        for rows in read_rows(out, split):
            if rows.masked_labels is None:
                assert settings["masking"] == "dynamic" and split == "train"
                continue
            shown = rows.input_ids[rows.masked_indices()]
            selected += len(shown)
            masked += int(np.count_nonzero(shown == special["mask"]))
            stayed += int(np.count_nonzero(shown == rows.masked_labels))
            tokens += len(rows.input_ids)
    spans = settings["mask_unit"] == "span"
    effect = 8.0 if spans else 1.0  # tokens of a span are replaced together
    share_is(masked, selected, settings["mask_replace_prob"], effect)
    keep = 1 - settings["mask_replace_prob"] - settings["random_replace_prob"]
    chance = settings["random_replace_prob"] / manifest["tokenizer"]["vocab_size"]
    share_is(stayed, selected, keep + chance, effect)
    assert abs(selected / tokens - settings["mask_prob"]) < 0.006  # counts are rounded, and short sequences have at least one
    train = manifest["splits"]["train"]
    if settings["pairing"] in ("none", "document"):
        assert train["not_next"] == train["forced_not_next"] == 0
    else:
        share_is(train["not_next"] - train["forced_not_next"], train["sequences"] - train["forced_not_next"], 0.5)


class Encoded:
    """The documents as ids, judged without the pipeline: each as one string of 16-bit letters, sentence boundaries unknown."""

    def __init__(self, out: Path, texts: list[str]) -> None:
        tokenizer = load_prepared(str(out / "tokenizer"))
        self.documents = [self.letters(tokenizer, text) for text in dict.fromkeys(texts)]
        self.everything = "\uffff".join(self.documents)

    @staticmethod
    def letters(tokenizer: Any, text: str) -> str:
        from prep.settings import Splitting
        from prep.tokens.sentences import split_sentences

        sentences = split_sentences(text, Splitting("language", "en"))
        spaced = [f" {s}" if i and tokenizer.needs_leading_space else s for i, s in enumerate(sentences)]
        return as_letters(i for e in tokenizer.reference.encode_batch(spaced, add_special_tokens=False) for i in e.ids)


def as_letters(ids: Iterator[int] | Any) -> str:
    return "".join(map(chr, ids))


def check_text(out: Path, manifest: dict[str, Any], texts: list[str]) -> None:
    """Segments are text of one document, in the order that the label says; single sequences are runs of whole documents."""
    settings = manifest["settings"]
    if settings["pairing"] not in ("sop", "none"):
        return  # these are judged in test_truth, and their sentences are not those of the language
    encoded = Encoded(out, texts)
    template = Template.of(manifest["tokenizer"], settings["pairing"] != "none")
    separator = chr(manifest["tokenizer"]["special_ids"]["sep"])
    crossing = 0
    for rows in read_rows(out):
        plain = unmask_rows(rows)
        starts = plain.sequence_starts()
        for s in range(0, len(starts) - 1, 3):
            ids = plain.input_ids[starts[s] : starts[s + 1]]
            a_end = int(plain.segment_a_lengths[s])
            if settings["pairing"] == "none":
                parts = as_letters(ids[len(template.prefix) : len(ids) - len(template.suffix)]).split(separator)
                crossing += len(parts) > 1
                assert len(parts) == 1 or settings["cross_documents"]
                assert all(part in encoded.everything for part in parts)
                assert all("\uffff" + part in "\uffff" + encoded.everything for part in parts[1:]), "begins its document"
            else:
                assert plain.next_sentence_label is not None
                a = as_letters(ids[len(template.prefix) : a_end - template.between_a])
                b = as_letters(ids[a_end + len(template.between) - template.between_a : len(ids) - len(template.suffix)])
                first, second = (b, a) if plain.next_sentence_label[s] else (a, b)
                homes = (document for document in encoded.documents if first in document)
                assert any(second in document[document.index(first) + len(first) :] for document in homes)
    assert bool(crossing) == settings["cross_documents"]


def test_weights_sample_whole_documents_and_say_their_shares(build: BuildRunner, tmp_path: Path) -> None:
    for name, count in (("half", 400), ("twice", 100), ("once", 100)):
        lines = [f"This is {name} number {i}. It has a second sentence. And it has a third." for i in range(count)]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    corpora = [tmp_path / f"{name}.txt" for name in ("half", "twice", "once")]
    arguments = ("--corpus", *corpora, "--corpus-weight", 0.5, 2, 1, "--eval-fraction", 0, "--pairing", "none")
    out = build(corpora[0], *arguments)
    ledger = manifest_of(out)["ledger"]
    half, twice, once = ledger["corpora"]
    assert 160 < half["documents"] == half["copies"] < 240
    assert (twice["documents"], twice["copies"]) == (100, 200) and (once["documents"], once["copies"]) == (100, 100)
    assert [facts["weight"] for facts in ledger["corpora"]] == [0.5, 2.0, 1.0]
    assert math.isclose(sum(facts["share"] for facts in ledger["corpora"]), 1.0)
    assert ledger["documents"]["in"] == 600 and ledger["documents"]["dropped"] == {"sampled_out": 400 - half["documents"]}
    rows = read_rows(out)
    assert sum(len(part.sequence_lengths) for part in rows) == half["copies"] + 300
    assert run_prep("verify", out).returncode == 0
    again = build(corpora[0], *arguments, "--seed", 5, name="again")
    assert manifest_of(again)["ledger"]["corpora"] == ledger["corpora"], "sampled by address, whatever the seed"


def test_held_out_documents_are_scored_once_whatever_their_weight(build: BuildRunner, corpus: Path) -> None:
    plain, doubled = (build(corpus, "--corpus-weight", weight, name=f"w{weight}") for weight in (1, 2))
    splits = [manifest_of(out)["splits"] for out in (plain, doubled)]
    assert splits[0]["eval"] == splits[1]["eval"]
    assert splits[1]["train"]["tokens"] > 1.9 * splits[0]["train"]["tokens"]


def test_duplicates_are_dropped_over_the_whole_corpus(build: BuildRunner, tmp_path: Path, paragraphs: list[str]) -> None:
    """The data are those of the corpus without them, whatever files they lie in, and in whatever order."""
    unique = list(dict.fromkeys(paragraphs))[:1500]
    for folder, files in {
        "messy": [unique[700:] + unique[:100], unique[:900], unique[850:]],
        "clean": [unique],
        "apart": [unique[1000:], unique[:1000]],
    }.items():
        (tmp_path / folder).mkdir()
        for number, lines in enumerate(files):
            (tmp_path / folder / f"{number}.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    outs = [build(tmp_path / name, "--dedup", "exact", name=f"out-{name}") for name in ("messy", "clean", "apart")]
    messy = outs[0]
    fingerprints = {manifest_of(out)["data_fingerprint"] for out in outs}
    assert len(fingerprints) == 1
    ledger = manifest_of(messy)["ledger"]
    assert ledger["documents"]["used"] == 1500 and ledger["documents"]["dropped"] == {"duplicate": 950}
    assert ledger["bytes"]["in"] == ledger["bytes"]["used"] + ledger["bytes"]["dropped"]["duplicate"]
    assert run_prep("verify", messy).returncode == 0


def test_two_phases_tokenize_once(build: BuildRunner, corpus: Path, tmp_path: Path) -> None:
    """BERT's 128 and 512 of one corpus: the second build finds the tokens and leaves them as they are."""
    build(corpus, "--max-seq-len", 128, name="phase-1")
    store = times_of_files(tmp_path / "scratch")
    places = ("--corpus", corpus, "--out", tmp_path / "phase-2", "--scratch", tmp_path / "scratch")
    (tokenizer,) = {str(path.parent) for path in store if path.name == "tokenizer.json"}
    done = run_prep("build", *places, "--tokenizer", tokenizer, "--max-seq-len", 512, "--pairing", "sop")
    assert done.returncode == 0 and "kept from an earlier run" in done.stderr, done.stderr
    assert times_of_files(tmp_path / "scratch") == store


def times_of_files(folder: Path) -> dict[Path, int]:
    """When each was written, in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


BAD = {
    "weights": (("--corpus-weight", 1, 2), "has 2 weights for 1 --corpus"),
    "no weight": (("--corpus-weight", 0), "--corpus-weight 0 of"),
    "nan weight": (("--corpus-weight", "nan"), "--corpus-weight nan of"),
    "cross": (("--cross-documents",), "--cross-documents needs --pairing none"),
    "short": (("--pairing", "paragraph", "--short-seq-prob", 0.1), "--short-seq-prob has no effect with --pairing paragraph"),
    "shares": (("--mask-replace-prob", 0.8, "--random-replace-prob", 0.3), "add up to more than 1"),
    "spans": (("--mask-unit", "span", "--mask-prob", 0.6), "at most 0.5 with --mask-unit span"),
    "lines": (
        (
            "--sentences",
            "line",
        ),
        "makes every document one sentence",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_settings_that_contradict_each_other_are_one_line(name: str, corpus: Path, tmp_path: Path) -> None:
    arguments, message = BAD[name]
    done = run_prep("plan", "--corpus", corpus, "--out", tmp_path / "out", *arguments)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_weight_of_nothing_is_named(corpus: Path, tmp_path: Path) -> None:
    done = run_prep("plan", "--corpus", corpus, corpus.parent, "--corpus-weight", 1, 3, "--out", tmp_path / "out")
    assert done.returncode == 2 and "its weight would have no effect" in done.stderr


def test_held_out_documents_of_a_small_corpus_are_scored_once(build: BuildRunner, tmp_path: Path) -> None:
    lines = [f"This is number {i}. It has a second sentence, and {i * 7}. And it has a third." for i in range(20)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    out = build(tmp_path / "a.txt", "--corpus-weight", 3)
    ledger = manifest_of(out)["ledger"]
    assert ledger["pairs"]["eval"]["documents"] == 8 and ledger["pairs"]["train"]["documents"] == 12 * 3
    assert ledger["duplicates"]["sampled"] == ledger["duplicates"]["different"] == 20
    assert run_prep("verify", out).returncode == 0


def test_other_weights_over_a_finished_data_set_are_refused(build: BuildRunner, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("\n".join(f"This is {name}{i}. It has more." for i in range(30)))
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    out = build(a, "--corpus", a, b, "--corpus-weight", 3, 0.5)
    places = ("--out", out, "--scratch", tmp_path / "scratch", "--tokenizer", out / "tokenizer")
    done = run_prep("build", "--corpus", b, a, "--corpus-weight", 3, 0.5, *places)
    assert done.returncode == 2 and "other weights" in done.stderr, done.stderr

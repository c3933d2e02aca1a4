import random
from collections.abc import Sequence
from pathlib import Path

import containers
import pytest
from conftest import BuildRunner, manifest_of

from prep.corpus.documents import InputFile, Rule, Span
from prep.settings import Splitting
from prep.tokens import vocabulary
from prep.tokens.tokenizer import PreparedTokenizer
from prep.tokens.vocabulary import VocabularyTask, sample_texts, train_vocabulary
from shards.errors import UserError


def train(path: Path, size: int, cased: bool = False, skip_faults: bool = False, form: str = "text") -> PreparedTokenizer:
    span = Span(InputFile(path.name, str(path), path.stat().st_size, "", form, ""))
    return train_vocabulary(task_of([span], size, cased, skip_faults))


def task_of(spans: Sequence[Span], size: int = 100, cased: bool = False, skip_faults: bool = False) -> VocabularyTask:
    splitting = Splitting("language", "en")
    return VocabularyTask(tuple(spans), Rule("line", "text"), splitting, "WordPiece", size, cased, skip_faults, "")


def test_a_vocabulary_trained_in_the_run_is_the_same_every_time(corpus: Path, build: BuildRunner) -> None:
    outs = [build(corpus, "--tokenizer", "train:700", name=f"o{i}", scratch=f"s{i}") for i in range(2)]
    assert len({(out / "tokenizer" / "tokenizer.json").read_bytes() for out in outs}) == 1
    assert len({manifest_of(out)["data_fingerprint"] for out in outs}) == 1
    assert manifest_of(outs[0])["tokenizer"]["vocab_size"] == 700


def test_case_and_accents_are_kept_in_a_cased_vocabulary_only(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("École Größe Über.\n" * 50, encoding="utf8")
    assert {"École", "Größe", "Über"} <= train(path, 400, cased=True).vocab.keys()
    assert {"ecole", "große", "uber"} <= train(path, 400, cased=False).vocab.keys()


def test_ids_are_those_of_bert_and_every_frequent_character_has_both_forms(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("the quick brown fox\n" * 20 + "\u4e2d\u6587\n", encoding="utf8")
    tokenizer = train(path, 200)
    assert list(tokenizer.special_ids.items()) == [("pad", 0), ("unk", 1), ("cls", 2), ("sep", 3), ("mask", 4)]
    assert sorted(tokenizer.vocab.values()) == list(range(tokenizer.vocab_size)) and tokenizer.vocab_size <= 200
    letters = set("thequickbrownfox\u4e2d\u6587")
    assert letters | {f"##{letter}" for letter in letters} <= tokenizer.vocab.keys()


def test_a_broken_document_stops_the_training_unless_it_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one two three"}\n' * 5 + "{\n" + '{"text": "four five"}\n' * 5)
    with pytest.raises(UserError, match=r"a\.jsonl: at byte 130: broken json"):
        train(path, 100, form="jsonl")
    assert "four" in train(path, 100, skip_faults=True, form="jsonl").vocab


def test_a_corpus_without_text_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n\n \n")
    with pytest.raises(UserError, match="no text to train a vocabulary on"):
        train(path, 100)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_small_corpus_is_read_whole_if_its_sizes_are_those_of_its_text(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each span gives the same number of bytes, so that the sample covers the corpus."""
    monkeypatch.setattr(vocabulary, "SAMPLE_BYTES", 6_000)
    monkeypatch.setattr(vocabulary, "_MIN_BYTES_PER_SPAN", 100)
    spans = []
    for ordinal, count in enumerate((150, 5)):
        path = tmp_path / f"{ordinal}.{form}"
        path.write_bytes(
            {"jsonl": containers.jsonl, "parquet": containers.parquet}[form](
                [f"{i:04} words of a long line" for i in range(count)]
            )
        )
        spans.append(Span(InputFile(path.name, str(path), path.stat().st_size, "", form, "")))
    sample = list(sample_texts(task_of(spans)))
    if form == "jsonl":
        assert len(sample) == 155
    else:
        assert 5 < len(sample) < 155


def test_text_without_blanks_is_trained_on_in_time(tmp_path: Path) -> None:
    """One word of half a million letters: the trainer's time grows with the square of a word."""
    path = tmp_path / "a.txt"
    path.write_text("".join(random.Random(5).choices("ACGT", k=500_000)))
    assert {"##ac", "##gt"} <= train(path, 200).vocab.keys()

"""Byte-level BPE trained on the corpus: `--tokenizer train-bpe:N`."""

import random
from pathlib import Path

import pytest
from conftest import BuildRunner, manifest_of, run_prep
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from prep.settings import Settings
from prep.tokens.byte_level import train_byte_level
from prep.tokens.tokenizer import PreparedTokenizer, load_prepared, prepare
from prep.tokens.tokenizer_source import load_tokenizer
from shards.errors import UserError


@pytest.fixture(scope="module")
def trained(paragraphs: list[str]) -> PreparedTokenizer:
    return prepare(train_byte_level(paragraphs[:1500], 2000), {}, "train-bpe:2000")


def test_five_trainings_are_equal_whatever_the_order(paragraphs: list[str]) -> None:
    texts = [*paragraphs[:600], "a b a b \u4e2d\u6587 \r\n\t" * 9, "x" * 3000]
    trainings = set()
    for seed in range(5):
        random.Random(seed).shuffle(texts)
        trainings.add(train_byte_level(texts, 1200).to_str())
    assert len(trainings) == 1


def test_it_has_berts_special_tokens_and_templates(trained: PreparedTokenizer) -> None:
    assert list(trained.special_ids.items()) == [("pad", 0), ("unk", 1), ("cls", 2), ("sep", 3), ("mask", 4)]
    assert sorted(trained.vocab.values()) == list(range(2000)) and not trained.unused_ids
    single, pair = trained.templates["single"], trained.templates["pair"]
    assert (single.prefix, single.suffix) == ((2,), (3,))
    assert (pair.prefix, pair.between, pair.suffix, pair.between_a) == ((2,), (3,), (3,), 1)
    assert trained.word_flags is not None and trained.needs_leading_space
    assert trained.cuts == {" ": "before", "\n": "before"}


@given(st.text())
def test_it_knows_every_text(trained: PreparedTokenizer, text: str) -> None:
    ids = trained.reference.encode(text, add_special_tokens=False).ids
    assert trained.reference.decode(ids, skip_special_tokens=False) == text
    assert not set(ids) & set(trained.special_ids.values())


def test_transformers_loads_it_and_a_mask_stands_for_a_word(trained: PreparedTokenizer, tmp_path: Path) -> None:
    trained.save(str(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.mask_token_id == 4 and tokenizer.pad_token_id == 0
    ids = tokenizer("of the people", add_special_tokens=False).input_ids
    the = tokenizer(" the", add_special_tokens=False).input_ids
    assert len(the) == 1
    masked = [4 if number == the[0] else number for number in ids]
    assert tokenizer("of [MASK] people", add_special_tokens=False).input_ids == masked, "it takes in the blank"
    assert load_prepared(str(tmp_path)).json_text == trained.json_text == load_tokenizer(str(tmp_path), False).json_text


def test_text_without_blanks_is_trained_on_in_time() -> None:
    """A word of a million letters: the trainer's time grows with the square of a word."""
    genome = "".join(random.Random(5).choices("ACGT", k=1_000_000))
    assert {"AC", "TTGG"} <= train_byte_level([genome], 600).get_vocab().keys()


@pytest.mark.parametrize("num_builds", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_build_trains_it(build: BuildRunner, corpus: Path, num_builds: int) -> None:
    arguments = ("--tokenizer", "train-bpe:700", "--pairing", "document", "--mask-unit", "word")
    outs = [build(corpus, *arguments, name=f"o{i}", scratch=f"s{i}") for i in range(num_builds)]
    assert len({(out / "tokenizer" / "tokenizer.json").read_bytes() for out in outs}) == 1
    manifest = manifest_of(outs[0])
    assert manifest["data_fingerprint"] == manifest_of(outs[-1])["data_fingerprint"]
    assert manifest["tokenizer"]["model"] == "BPE" and manifest["tokenizer"]["vocab_size"] == 700
    assert (
        manifest["settings"]["tokenizer"] == "train-bpe:700"
        and "--tokenizer train-bpe:700" in (outs[0] / "README.md").read_text()
    )
    assert run_prep("verify", outs[0]).returncode == 0


@pytest.mark.parametrize("name", ["train-bpe:", "train-bpe:299", "train-bpe:x", "train:", "train:99"])
def test_a_size_that_is_none_is_one_line(name: str) -> None:
    with pytest.raises(UserError, match=f"--tokenizer is '{name}', must be train"):
        Settings(("a",), "out", tokenizer=name)


def test_a_setting_that_changes_nothing_is_one_line() -> None:
    with pytest.raises(UserError, match="--cased has no effect with --tokenizer train-bpe:500, which keeps case"):
        Settings(("a",), "out", tokenizer="train-bpe:500", cased=True)

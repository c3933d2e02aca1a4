"""Any tokenizer that the library loads: its roles, templates, words, and what is refused."""

import json
from pathlib import Path

import pytest
from conftest import run_prep
from tokenizers import Tokenizer, processors

from prep.tokens.special_tokens import find_words
from prep.tokens.tokenizer import PreparedTokenizer
from prep.tokens.tokenizer_source import load_tokenizer
from shards.errors import UserError
from shards.mask_units import ENDS_WORD, STARTS_WORD
from shards.template import Template


def load(folder: Path) -> PreparedTokenizer:
    return load_tokenizer(str(folder), cased=False)


def test_roles_and_templates_are_the_tokenizers_own(tokenizer_folders: dict[str, Path]) -> None:
    roberta, albert, openai = (load(tokenizer_folders[name]) for name in ("roberta", "albert", "openai"))
    assert roberta.special_ids == {"pad": 1, "unk": 3, "cls": 0, "sep": 2, "mask": 4}
    assert roberta.templates == {"single": Template((0,), (), (2,)), "pair": Template((0,), (2, 2), (2,), 2)}
    assert albert.special_ids == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert albert.templates["pair"] == Template((2,), (3,), (3,), 1)
    assert openai.special_ids == {"pad": 1, "unk": 0, "cls": 2, "sep": 4, "mask": 5, "<split>": 3}
    assert openai.templates["pair"] == Template((2,), (3,), (4,), 1)


def test_words_start_at_the_spaces_of_the_text(tokenizer_folders: dict[str, Path]) -> None:
    text = "the united states of america, undoubtedly extraordinarily"
    for name in ("roberta", "albert", "openai"):
        prepared = load(tokenizer_folders[name])
        flags, ids = prepared.word_flags, prepared.reference.encode(text, add_special_tokens=False).ids
        assert flags is not None
        starts = [i == 0 or bool(flags[ids[i]] & STARTS_WORD or flags[ids[i - 1]] & ENDS_WORD) for i in range(len(ids))]
        words = len(text.split()) + (name == "openai")  # it separates punctuation from words
        assert sum(starts) == words and len(ids) > words, name


def without(folder: Path, target: Path, **changes: object) -> str:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    target.mkdir()
    tokenizer.save(str(target / "tokenizer.json"))
    return str(target)


def test_what_a_recipe_needs_and_the_tokenizer_lacks_is_one_line(
    tokenizer_folders: dict[str, Path], corpus: Path, tmp_path: Path
) -> None:
    alone = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    no_pair = without(tokenizer_folders["roberta"], tmp_path / "alone", post_processor=alone)
    places = ("--corpus", corpus, "--out", tmp_path / "out", "--scratch", tmp_path / "scratch")
    for pairing in ("nsp", "sop", "paragraph"):
        done = run_prep("build", *places, "--tokenizer", no_pair, "--pairing", pairing)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert "has no template for pairs" in done.stderr and f"--pairing {pairing}" in done.stderr
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="no mask token"):
        load(Path(without(Path(tokenizer_folders["openai"]), tmp_path / "nameless")))


def test_tokens_that_show_no_words_are_refused_for_words(tmp_path: Path, corpus: Path) -> None:
    from tokenizers import models, pre_tokenizers

    vocab = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"])}
    letters = Tokenizer(models.BPE(vocab, [], unk_token="[UNK]"))
    letters.pre_tokenizer = pre_tokenizers.Whitespace()
    assert find_words(json.loads(letters.to_str()), letters.get_vocab()) is None
    letters.save(str(tmp_path / "tokenizer.json"))
    arguments = ("--tokenizer", tmp_path, "--pairing", "none", "--mask-unit", "word")
    done = run_prep("build", "--corpus", corpus, "--out", tmp_path / "out", "--scratch", tmp_path / "scratch", *arguments)
    assert done.returncode == 2 and "do not show where words begin" in done.stderr and done.stderr.count("\n") == 1

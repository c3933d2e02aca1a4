"""Any tokenizer that the library loads: its roles, templates, words, and what is refused."""

from pathlib import Path

import pytest
from commands import run_prep
from tokenizers import Tokenizer, processors
from tokenizers_of_all_kinds import KINDS, OPENAI_CONFIG

from prep.tokens.encoder import Encoder
from prep.tokens.special_tokens import find_words
from prep.tokens.tokenizer import PreparedTokenizer, load_prepared, load_tokenizer
from shards.errors import UserError
from shards.mask_units import ENDS_WORD, STARTS_WORD
from shards.template import Template


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, paragraphs: list[str]) -> dict[str, Path]:
    made = {}
    for name, make in KINDS.items():
        made[name] = tmp_path_factory.mktemp(name)
        make(paragraphs[:800]).save(str(made[name] / "tokenizer.json"))
    (made["openai"] / "tokenizer_config.json").write_text(OPENAI_CONFIG)
    return made


def load(folder: Path) -> PreparedTokenizer:
    return load_tokenizer(str(folder), cased=False)


def test_roles_and_templates_are_the_tokenizers_own(folders: dict[str, Path]) -> None:
    roberta, albert, openai = (load(folders[name]) for name in ("roberta", "albert", "openai"))
    assert roberta.special_ids == {"pad": 1, "unk": 3, "cls": 0, "sep": 2, "mask": 4}
    assert roberta.templates == {"single": Template((0,), (), (2,)), "pair": Template((0,), (2, 2), (2,), 2)}
    assert albert.special_ids == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert albert.templates["pair"] == Template((2,), (3,), (3,), 1)
    assert openai.special_ids == {"pad": 1, "unk": 0, "cls": 2, "sep": 4, "mask": 5, "<split>": 3}
    assert openai.templates["pair"] == Template((2,), (3,), (4,), 1)


def test_what_is_saved_loads_again_with_its_roles(folders: dict[str, Path], tmp_path: Path) -> None:
    for name, folder in folders.items():
        first = load(folder)
        first.save(str(tmp_path / name))
        for again in (load_prepared(str(tmp_path / name)), load(tmp_path / name)):
            assert (again.fingerprint, again.special_ids, again.templates) == (
                first.fingerprint,
                first.special_ids,
                first.templates,
            )


def test_transformers_loads_what_is_saved(folders: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for name, folder in folders.items():
        prepared = load(folder)
        prepared.save(str(tmp_path / name))
        theirs = AutoTokenizer.from_pretrained(str(tmp_path / name))
        template = prepared.templates["pair"]
        ids = theirs("the state", "the union")["input_ids"]
        assert theirs.mask_token_id == prepared.special_ids["mask"] and theirs.pad_token_id == prepared.special_ids["pad"]
        assert tuple(ids[: len(template.prefix)]) == template.prefix and tuple(ids[-len(template.suffix) :]) == template.suffix


def test_words_begin_where_the_text_has_blanks(folders: dict[str, Path]) -> None:
    text = "the united states of america, undoubtedly extraordinarily"
    for name in ("roberta", "albert", "openai"):
        prepared = load(folders[name])
        flags, ids = prepared.word_flags, prepared.reference.encode(text, add_special_tokens=False).ids
        assert flags is not None
        starts = [i == 0 or bool(flags[ids[i]] & STARTS_WORD or flags[ids[i - 1]] & ENDS_WORD) for i in range(len(ids))]
        words = len(text.split()) + (name == "openai")  # which parts punctuation from words
        assert sum(starts) == words and len(ids) > words, name


def test_sentences_behind_others_are_encoded_with_their_blank(folders: dict[str, Path]) -> None:
    roberta, albert = load(folders["roberta"]), load(folders["albert"])
    assert roberta.says_blanks and not albert.says_blanks and not load(folders["llama"]).says_blanks
    whole = roberta.reference.encode("The state. The union.", add_special_tokens=False).ids
    parts, _ = Encoder(roberta, fast=False).encode(["The state.", " The union."])
    assert parts.tolist() == whole


def test_spelled_special_tokens_stay_text(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        prepared = load(folder)
        spelled = [f"a {token} b{token}" for token in prepared.roles.values()]
        ids, lengths = Encoder(prepared, fast=True).encode(spelled)
        unknown = prepared.special_ids.get("unk")
        assert not ({*prepared.special_ids.values()} - {unknown}) & set(ids.tolist()) and (lengths > 0).all()


def without(folder: Path, target: Path, **changes: object) -> str:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    target.mkdir()
    tokenizer.save(str(target / "tokenizer.json"))
    return str(target)


def test_what_a_recipe_lacks_is_one_line(folders: dict[str, Path], corpus: Path, tmp_path: Path) -> None:
    alone = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    no_pair = without(folders["roberta"], tmp_path / "alone", post_processor=alone)
    places = ("--corpus", corpus, "--out", tmp_path / "out", "--scratch", tmp_path / "scratch")
    for pairing in ("nsp", "sop", "paragraph"):
        done = run_prep("build", *places, "--tokenizer", no_pair, "--pairing", pairing)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert "has no template for pairs" in done.stderr and f"--pairing {pairing}" in done.stderr
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="no mask token"):
        load(Path(without(Path(folders["openai"]), tmp_path / "nameless")))


def test_tokenizers_that_cannot_encode_are_one_line(tmp_path: Path, corpus: Path) -> None:
    from tokenizers import models, pre_tokenizers

    vocab = [("<pad>", 0.0), ("<mask>", 0.0), ("x", -1.0)]
    without_unknown = Tokenizer(models.Unigram(vocab))
    without_unknown.pre_tokenizer = pre_tokenizers.Whitespace()
    without_unknown.save(str(tmp_path / "tokenizer.json"))
    for command in ("plan", "build"):
        places = ("--corpus", corpus, "--out", tmp_path / "out", "--scratch", tmp_path / "scratch", "--tokenizer", tmp_path)
        done = run_prep(command, *places, "--pairing", "none")
        assert done.returncode == 2 and "cannot encode" in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_tokens_that_show_no_words_are_refused_for_words(tmp_path: Path, corpus: Path) -> None:
    from tokenizers import models, pre_tokenizers

    vocab = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"])}
    letters = Tokenizer(models.BPE(vocab, [], unk_token="[UNK]"))
    letters.pre_tokenizer = pre_tokenizers.Whitespace()
    assert find_words(letters) is None
    letters.save(str(tmp_path / "tokenizer.json"))
    arguments = ("--tokenizer", tmp_path, "--pairing", "none", "--mask-unit", "word")
    done = run_prep("build", "--corpus", corpus, "--out", tmp_path / "out", "--scratch", tmp_path / "scratch", *arguments)
    assert done.returncode == 2 and "do not show where words begin" in done.stderr and done.stderr.count("\n") == 1

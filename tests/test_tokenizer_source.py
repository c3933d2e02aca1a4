from pathlib import Path

import pytest
from tokenizers import Tokenizer

from prep.tokens.tokenizer import PreparedTokenizer
from prep.tokens.tokenizer_source import load_tokenizer
from shards.errors import UserError


def test_vocab_txt_and_folder_equal_the_json(tokenizer: PreparedTokenizer, tmp_path: Path) -> None:
    tokenizer.save(str(tmp_path))
    folder = tmp_path
    by_folder = load_tokenizer(str(folder), cased=False)
    by_vocab = load_tokenizer(str(folder / "vocab.txt"), cased=False)
    assert by_folder.fingerprint == tokenizer.fingerprint == by_vocab.fingerprint


def test_a_folder_says_whether_it_is_cased(tokenizer: PreparedTokenizer, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(tokenizer.vocab, key=tokenizer.vocab.__getitem__)))
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert '"lowercase": false' in load_tokenizer(str(tmp_path), cased=False).json_text


def test_truncation_and_padding_are_switched_off(tokenizer: PreparedTokenizer, tmp_path: Path) -> None:
    raw = Tokenizer.from_str(tokenizer.json_text)
    raw.enable_truncation(16)
    raw.enable_padding(length=16)
    raw.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(str(tmp_path / "tokenizer.json"), cased=False).fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not a tokenizer.json"), ('{"model": 3}', "not a tokenizer.json"), ("\x00\x01", "not a tokenizer.json")],
)
def test_what_is_no_tokenizer_is_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_tokenizer(str(tmp_path), cased=False)


def test_missing_special_tokens_are_named(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\na\nb\n")
    with pytest.raises(UserError, match=r"has no pad token \(\[PAD\] or <pad>\), no mask token"):
        load_tokenizer(str(tmp_path / "vocab.txt"), cased=False)

"""A tokenizer.json from a stranger: what would take memory or end in a panic is one line."""

import base64
import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import models, normalizers, pre_tokenizers

from prep.tokens.tokenizer import PreparedTokenizer, load_prepared, prepare
from prep.tokens.tokenizer_source import load_tokenizer
from shards.errors import UserError
from shards.tokenizer_check import follow_flags, read_definition

Definition = dict[str, Any]


def replacements(definition: Definition, pattern: dict[str, str], content: str, count: int) -> None:
    one = {"type": "Replace", "pattern": pattern, "content": content}
    definition["normalizer"] = {"type": "Sequence", "normalizers": [one] * count}


def charsmap(definition: Definition, table: bytes) -> None:
    definition["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}


def template(definition: Definition, ids: int, pieces: int) -> None:
    special = {"id": "[CLS]", "ids": [2] * ids, "tokens": ["[CLS]"] * ids}
    definition["post_processor"]["special_tokens"]["[CLS]"] = special
    definition["post_processor"]["single"] += [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}] * pieces


BOMBS: dict[str, tuple[Callable[[Definition], Any], str]] = {
    "replace": (lambda d: replacements(d, {"String": "."}, "." * 20, 9), "times longer"),
    "replace-regex": (lambda d: replacements(d, {"Regex": ""}, "ab", 30), "times longer"),
    "prepend": (lambda d: d.update(normalizer={"type": "Prepend", "prepend": "x" * 1000}), "prepends 1000 characters"),
    "charsmap-size": (lambda d: charsmap(d, b"\xfc\xff\xff\xff\0\0\0\0\0"), "precompiled_charsmap is damaged"),
    "charsmap-text": (lambda d: charsmap(d, b"\4\0\0\0\0\0\0\0" + b"x" * 5000), "by 5000 bytes"),
    "template": (lambda d: template(d, 1000, 1000), "templates have 1002006 tokens"),
    "template-name": (lambda d: d["post_processor"]["special_tokens"].pop("[SEP]"), "which its special_tokens lack"),
    "id": (lambda d: d["model"]["vocab"].update(zzz=2**31), "has the id 2147483648"),
    "negative-id": (lambda d: d["model"]["vocab"].update(zzz=-1), "has the id -1"),
    "id-no-integer": (lambda d: d["model"]["vocab"].update(zzz=1.5), "has the id 1.5"),
    "gap": (lambda d: d["model"]["vocab"].update(zzz=9_000_000), "may be unused"),
    "length-0": (lambda d: d.update(pre_tokenizer={"type": "FixedLength", "length": 0}), "has the length 0"),
    "no-model": (lambda d: d.pop("model"), "not a tokenizer.json"),
}
STATES: dict[str, tuple[Callable[[Definition], Any], str]] = {
    "padding": (
        lambda d: d.update(
            padding={
                "strategy": {"Fixed": 10**9},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "[PAD]",
            }
        ),
        "has padding",
    ),
    "truncation": (
        lambda d: d.update(truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}),
        "has truncation",
    ),
}


def changed(tokenizer: PreparedTokenizer, change: Callable[[Definition], Any]) -> str:
    definition = copy.deepcopy(tokenizer.definition)
    change(definition)
    return json.dumps(definition)


FIRST_OF_TWO = {
    "normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\xfc\xff\xff\xff\0\0\0\0\0").decode()},
    "padding": {"strategy": {"Fixed": 10**9}},
    "model": {"type": "WordLevel", "vocab": {"a": 2**31}, "unk_token": "a"},
    "vocab": {"zzz": 2**31},
}


@pytest.mark.parametrize("field", FIRST_OF_TWO)
def test_a_field_that_is_there_twice_is_refused(field: str, tokenizer: PreparedTokenizer, tmp_path: Path) -> None:
    """The library reads the first one too, and Python shows only the last."""
    text = tokenizer.json_text.replace(f'"{field}":', f'"{field}": {json.dumps(FIRST_OF_TWO[field])}, "{field}":', 1)
    (tmp_path / "tokenizer.json").write_text(text)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    for load in (load_prepared, lambda folder: load_tokenizer(folder, cased=False)):
        with pytest.raises(UserError, match=f"the field '{field}' is there twice"):
            load(str(tmp_path))


@pytest.mark.parametrize("name", BOMBS | STATES)
def test_a_saved_tokenizer_that_is_a_bomb_is_one_line(name: str, tokenizer: PreparedTokenizer, tmp_path: Path) -> None:
    change, message = (BOMBS | STATES)[name]
    tokenizer.save(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text(changed(tokenizer, change))
    with pytest.raises(UserError, match=message):
        load_prepared(str(tmp_path))


@pytest.mark.parametrize("name", BOMBS)
def test_a_given_tokenizer_that_is_a_bomb_is_one_line(name: str, tokenizer: PreparedTokenizer, tmp_path: Path) -> None:
    change, message = BOMBS[name]
    (tmp_path / "tokenizer.json").write_text(changed(tokenizer, change))
    with pytest.raises(UserError, match=message):
        load_tokenizer(str(tmp_path), cased=False)


@pytest.mark.parametrize("name", STATES)
def test_padding_and_truncation_of_a_given_tokenizer_are_switched_off(
    name: str, tokenizer: PreparedTokenizer, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_text(changed(tokenizer, STATES[name][0]))
    assert load_tokenizer(str(tmp_path), cased=False).fingerprint == tokenizer.fingerprint


def test_dropout_is_switched_off() -> None:
    raw = models.BPE(
        {"<pad>": 0, "<mask>": 1, "<unk>": 2, "a": 3, "b": 4, "ab": 5}, [("a", "b")], dropout=0.5, unk_token="<unk>"
    )
    from tokenizers import Tokenizer

    tokenizer = Tokenizer(raw)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    prepared = prepare(tokenizer, {}, "test")
    assert prepared.definition["model"]["dropout"] is None
    assert {tuple(prepared.reference.encode("ab ab ab ab").ids) for _ in range(20)} == {(5, 5, 5, 5)}


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "{", "[]", "3", '{"model": {"vocab": 7}}'])
def test_odd_json_is_one_line(text: str, tokenizer: PreparedTokenizer, tmp_path: Path) -> None:
    tokenizer.save(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text(text)
    for load in (lambda folder: load_tokenizer(folder, cased=False), load_prepared):
        with pytest.raises(UserError, match=r"not a tokenizer\.json"):
            load(str(tmp_path))


def test_common_tokenizers_are_within_bounds(tokenizer_folders: dict[str, Path]) -> None:
    for folder in tokenizer_folders.values():
        assert read_definition((folder / "tokenizer.json").read_bytes(), "test")["model"]
    albert = normalizers.Sequence(
        [normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), normalizers.NFKD(), normalizers.Replace(" ", "\u2581")]
    )
    definition = json.loads((tokenizer_folders["albert"] / "tokenizer.json").read_text())
    definition["normalizer"] = json.loads(albert.__getstate__())
    read_definition(json.dumps(definition).encode(), "test")


def mutants(text: str, count: int, seed: int) -> list[bytes]:
    """Copies of a file with a few bytes changed, cut out or doubled."""
    rng, data = random.Random(seed), text.encode()
    result = []
    for _ in range(count):
        mutant = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            place, length = rng.randrange(len(mutant)), rng.randint(1, 12)
            kind = rng.randrange(4)
            if kind == 0:
                mutant[place] = rng.randrange(256)
            elif kind == 1:
                del mutant[place : place + length]
            elif kind == 2:
                mutant[place:place] = mutant[place : place + length]
            else:
                mutant[place : place + 1] = rng.choice([b"null", b"-1", b"1e9", b"{}", b"[]", b'""', b"99999999"])
        result.append(bytes(mutant))
    return result


@pytest.mark.parametrize("count", [150, pytest.param(5000, marks=pytest.mark.long)])
def test_mutants_of_a_tokenizer_are_one_line_or_a_tokenizer(count: int, tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers_of_all_kinds import NAMES

    from prep.tokens.tokenizer import wordpiece

    vocab = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "the", "."])}
    unigram = Tokenizer(models.Unigram([(name, 0.0) for name in NAMES] + [("a", -1.0), ("\u2581the", -2.0)], unk_id=3))
    unigram.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("a", "b")])
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    for number, raw in enumerate((wordpiece(vocab, lowercase=True), unigram)):
        prepared = prepare(raw, {}, "test")
        prepared.save(str(tmp_path))
        for mutant in mutants(prepared.json_text, count, number):
            (tmp_path / "tokenizer.json").write_bytes(mutant)
            for load in (lambda folder: load_tokenizer(folder, cased=False), load_prepared):
                try:
                    load(str(tmp_path))
                except UserError as error:
                    assert "\n" not in str(error)


def test_flags_change_berts_normalizer_only() -> None:
    bert = {
        "type": "BertNormalizer",
        "clean_text": True,
        "lowercase": True,
        "strip_accents": None,
        "handle_chinese_chars": True,
    }
    same = {"do_lower_case": True, "strip_accents": True, "tokenize_chinese_chars": True}
    assert follow_flags({"normalizer": bert}, same, "x") == {"normalizer": bert}, "it does the same"
    assert follow_flags({"normalizer": bert}, {"strip_accents": False}, "x")["normalizer"]["strip_accents"] is False
    assert follow_flags({"normalizer": None}, {"do_lower_case": False}, "x") == {"normalizer": None}
    with pytest.raises(UserError, match="do_lower_case is 1, must be true or false"):
        follow_flags({"normalizer": bert}, {"do_lower_case": 1}, "x")

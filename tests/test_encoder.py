import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BuildRunner, manifest_of, run_prep
from tokenizers import Tokenizer

from prep.tokens import encoder as encoders
from prep.tokens import fast
from prep.tokens.encoder import Encoder, EngineMismatchError, resolve_engine
from prep.tokens.fast import REFERENCE, installed_engine
from prep.tokens.tokenizer import PreparedTokenizer, prepare, wordpiece
from prep.tokens.tokenizer_source import load_tokenizer
from shards.errors import UserError

SPELLED = ["a [MASK] b", "[CLS][SEP]", "[mask] [UNK] x[PAD]y", "the [MASK]", "[SEP]"]


def fast_encoder(tokenizer: PreparedTokenizer) -> Encoder:
    return Encoder(tokenizer, installed_engine(tokenizer.definition))


def odd_sentences(count: int) -> list[str]:
    rng = random.Random(1)
    pools = [range(32, 127), range(0xA0, 0x250), range(0x300, 0x370), range(0x370, 0x600), range(0x900, 0xA00)]
    pools += [range(0x3040, 0x3100), range(0x4E00, 0x9FFF), range(0x1F300, 0x1F700), range(0x2000, 0x2070), range(32)]
    return ["".join(chr(rng.choice(rng.choice(pools))) for _ in range(rng.randint(1, 60))) for _ in range(count)]


def test_the_fast_engine_is_here_and_equals_the_reference(tokenizer: PreparedTokenizer, paragraphs: list[str]) -> None:
    assert importlib.util.find_spec("nanotoken")
    sentences = paragraphs[:500] + odd_sentences(3000) + SPELLED
    quick, reference = fast_encoder(tokenizer), Encoder(tokenizer, REFERENCE)
    assert quick.is_fast and not reference.is_fast and quick.engine.startswith("nanotoken ")
    for a, b in zip(quick.encode(sentences), reference.encode(sentences), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("is_fast", [True, False])
def test_special_tokens_spelled_out_are_text(tokenizer: PreparedTokenizer, is_fast: bool) -> None:
    ids, lengths = (fast_encoder(tokenizer) if is_fast else Encoder(tokenizer, REFERENCE)).encode(SPELLED)
    forbidden = {number for role, number in tokenizer.special_ids.items() if role != "unk"}
    assert not forbidden & set(ids.tolist()) and len(lengths) == len(SPELLED)
    brackets = [tokenizer.vocab[c] for c in "[]" if c in tokenizer.vocab]
    assert set(brackets) <= set(ids.tolist())


def test_an_expression_that_is_given_up_is_one_line(tokenizer: PreparedTokenizer) -> None:
    """The library of regular expressions stops after so many steps, and `tokenizers` panics: no Exception of Python."""
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    prepared = PreparedTokenizer(json.dumps(tokenizer.definition | {"pre_tokenizer": split}), tokenizer.roles)
    with pytest.raises(UserError, match=r"cannot encode a sentence .*; add an unknown token to it, or use another tokenizer"):
        Encoder(prepared, REFERENCE).encode(["a" * 40 + "b"])


@pytest.mark.parametrize("is_fast", [True, False])
def test_even_a_tokenizer_that_splits_at_spaces_only_makes_no_special_token(is_fast: bool) -> None:
    from tokenizers import pre_tokenizers

    vocab = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])}
    raw = wordpiece(vocab, lowercase=False)
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    prepared = prepare(raw, {}, "test")
    ids, _ = (fast_encoder(prepared) if is_fast else Encoder(prepared, REFERENCE)).encode(["a [MASK] b", "[SEP]"])
    assert ids.tolist() == [5, 1, 6, 1]


def test_a_mismatch_in_the_checked_share_is_raised(tokenizer: PreparedTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = fast_encoder(tokenizer)
    sentences = [f"sentence number {i}" for i in range(300)]
    right = encoder.encode(sentences)

    def wrong(batch: list[str]) -> tuple[np.ndarray, np.ndarray]:
        return right[0][: len(batch)], np.ones(len(batch), np.int64)

    monkeypatch.setattr(encoder, "_encode_fast", wrong)
    with pytest.raises(EngineMismatchError):
        encoder.encode(sentences, number=205)


def test_later_sentences_are_encoded_with_their_space(tokenizer_folders: dict[str, Path]) -> None:
    roberta, albert = (
        load_tokenizer(str(tokenizer_folders["roberta"]), cased=False),
        load_tokenizer(str(tokenizer_folders["albert"]), cased=False),
    )
    assert (
        roberta.needs_leading_space
        and not albert.needs_leading_space
        and not load_tokenizer(str(tokenizer_folders["llama"]), cased=False).needs_leading_space
    )
    whole = roberta.reference.encode("The state. The union.", add_special_tokens=False).ids
    parts, _ = Encoder(roberta, REFERENCE).encode(["The state.", " The union."])
    assert parts.tolist() == whole


def test_spelled_special_tokens_stay_text(tokenizer_folders: dict[str, Path]) -> None:
    for folder in tokenizer_folders.values():
        prepared = load_tokenizer(str(folder), cased=False)
        spelled = [f"a {token} b{token}" for token in prepared.roles.values()]
        ids, lengths = fast_encoder(prepared).encode(spelled)
        unknown = prepared.special_ids.get("unk")
        assert not ({*prepared.special_ids.values()} - {unknown}) & set(ids.tolist()) and (lengths > 0).all()


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


def test_a_rare_token_that_differs_is_found_in_whatever_sentence_it_is(
    tokenizer: PreparedTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = fast_encoder(tokenizer)
    encode, rare = encoder._encode_fast, tokenizer.vocab["union"]

    def wrong(sentences: list[str]) -> tuple[np.ndarray, np.ndarray]:
        ids, lengths = encode(sentences)
        return np.where(ids == rare, rare + 1, ids), lengths

    monkeypatch.setattr(encoder, "_encode_fast", wrong)
    for place in (3, 57, 299):
        sentences = ["the state of the state"] * 300
        sentences[place] = "the state of the union"
        with pytest.raises(EngineMismatchError):
            encoder.encode(sentences, number=0)


def test_the_engine_is_the_same_for_all_that_have_it_and_named_where_it_is_slow(
    tokenizer: PreparedTokenizer, tokenizer_folders: dict[str, Path]
) -> None:
    engine = installed_engine(tokenizer.definition)
    assert resolve_engine(tokenizer, engine) == (engine, None)
    assert resolve_engine(tokenizer, REFERENCE)[0] == REFERENCE and "pip install" in str(
        resolve_engine(tokenizer, REFERENCE)[1]
    )
    roberta = load_tokenizer(str(tokenizer_folders["roberta"]), cased=False)
    assert resolve_engine(roberta, installed_engine(roberta.definition)) == (installed_engine(roberta.definition), None)
    assert installed_engine(roberta.definition).startswith("gigatoken ")
    albert = load_tokenizer(str(tokenizer_folders["albert"]), cased=False)
    assert resolve_engine(albert, "nanotoken 99") == (REFERENCE, "no fast tokenizer knows this Unigram tokenizer")
    with pytest.raises(UserError, match=r"made with nanotoken 99, but here is nanotoken \d"):
        resolve_engine(tokenizer, "nanotoken 99")
    with pytest.raises(UserError, match="this build uses nanotoken 99"):
        Encoder(tokenizer, "nanotoken 99")


def test_the_manifest_names_the_engine(paragraphs: list[str], build: BuildRunner, tmp_path: Path) -> None:
    corpus = tmp_path / "a.txt"
    corpus.write_text("\n".join(paragraphs[:60]), encoding="utf8")
    fast, slow = build(corpus, name="fast"), build(corpus, "--tokenizer-engine", "reference", name="slow")
    assert manifest_of(fast)["made_with"]["tokenizing_engine"].startswith("nanotoken ")
    assert manifest_of(slow)["made_with"]["tokenizing_engine"].startswith("tokenizers ")
    assert manifest_of(fast)["data_fingerprint"] == manifest_of(slow)["data_fingerprint"]


def test_of_a_unit_every_nth_sentence_is_compared_in_batches_of_any_size(tokenizer: PreparedTokenizer) -> None:
    encoder = fast_encoder(tokenizer)
    number, found = 0, []
    for size in (1, 65, 700, 399, 1, 34):
        ids, lengths = encoder._encode_fast(["the state of the state"] * size)
        found += [number + i for i in encoder._to_compare(ids, lengths, number)]
        number += size
    assert set(range(0, number, encoders.CHECK_EVERY)) <= set(found) and len(found) < 20


# Long texts


def test_of_a_long_text_a_window_is_compared_and_now_and_then_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "_WINDOW_CHARS", 10)
    text = "".join(map(chr, range(0x100, 0x100 + 95)))
    windows = [encoders._window(text, number) for number in range(2000)]
    whole = sum(window == text for window in windows)
    assert 2000 / 10 * 0.7 < whole < 2000 / 10 * 1.4, "a comparison costs as much as two windows, on average"
    assert all(window == text or (len(window) == 10 and window in text) for window in windows)
    assert len(set(windows)) == 1 + len(text) - 10 + 1, "each place comes"
    assert encoders._window("short", 7) == "short"


# gigatoken


def test_byte_level_bpe_equals_the_reference_for_every_character(
    tokenizer_folders: dict[str, Path], paragraphs: list[str]
) -> None:
    roberta = load_tokenizer(str(tokenizer_folders["roberta"]), cased=False)
    quick, reference = fast_encoder(roberta), Encoder(roberta, REFERENCE)
    assert quick.is_fast and quick.engine.startswith("gigatoken ")
    characters = [chr(code) for code in range(0, 0x20000, 3) if not 0xD800 <= code < 0xE000]
    texts = [
        *(f"a{c}b {c}1{c}.{c}\n{c}" for c in characters),
        *odd_sentences(500),
        *SPELLED,
        "\n".join(paragraphs[:300]),
        "x" * 5000,
    ]
    for a, b in zip(quick.encode(texts), reference.encode(texts), strict=True):
        assert np.array_equal(a, b)


LLAMA = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
NFC = {"type": "NFC"}
FLAGS = {"normalized": True, "single_word": False, "lstrip": False, "rstrip": False}
BLANKS = {"id": 1500, "content": "    ", "special": False} | FLAGS


def split_by(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, GPT2 | {"use_regex": False}]}


# Pre-tokenizer, normalizer, fields of the model, an added token, and whether the fast tokenizer may be used.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any], dict[str, Any], bool]] = {
    "gpt2": (GPT2, None, {}, {}, True),
    "llama3": (split_by(LLAMA), None, {"ignore_merges": True}, {}, True),
    "modernbert": (GPT2, NFC, {}, BLANKS, True),
    "qwen": (split_by(LLAMA.replace("{1,3}", "")), {"type": "Sequence", "normalizers": [NFC]}, {}, {}, True),
    "prefix": (GPT2 | {"add_prefix_space": True}, None, {}, {}, False),
    "no rule": (GPT2 | {"use_regex": False}, None, {}, {}, False),
    "other rule": (split_by(r"\w+"), None, {}, {}, False),
    "lowercase": (GPT2, {"type": "Lowercase"}, {}, {}, False),
    "suffix": (GPT2, None, {"end_of_word_suffix": "</w>"}, {}, False),
    "single word": (GPT2, None, {}, BLANKS | {"single_word": True}, False),
    "token of the vocabulary": (GPT2, None, {}, BLANKS | {"content": "e"}, False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_byte_level_bpe(kind: str, tokenizer_folders: dict[str, Path]) -> None:
    """One that is not known to be equal is left to the reference; one that is known, is equal."""
    pre_tokenizer, normalizer, fields, added, is_known = KINDS[kind]
    definition = json.loads((tokenizer_folders["roberta"] / "tokenizer.json").read_text())
    definition |= {"pre_tokenizer": pre_tokenizer, "normalizer": normalizer, "model": definition["model"] | fields}
    definition["added_tokens"] += [added] if added else []
    assert (fast.library_for(definition) == "gigatoken") == is_known
    if is_known:
        prepared = prepare(Tokenizer.from_str(json.dumps(definition)), {}, kind)
        texts = [*odd_sentences(400), "e\u0301 x    y\r\n\r\n 12345678 it's IT'S", *SPELLED]
        assert resolve_engine(prepared, installed_engine(prepared.definition))[1] is None
        for a, b in zip(fast_encoder(prepared).encode(texts), Encoder(prepared, REFERENCE).encode(texts), strict=True):
            assert np.array_equal(a, b)


def test_a_token_that_no_merge_makes_is_found_before_the_build(tokenizer_folders: dict[str, Path]) -> None:
    """With `ignore_merges` it depends on where words end, and the libraries know different versions of Unicode."""
    definition = json.loads((tokenizer_folders["roberta"] / "tokenizer.json").read_text())
    definition["model"]["vocab"]["qqzx"] = 1500
    engine = installed_engine(definition)
    for ignores, reason in ((False, None), (True, "gives other ids")):
        definition["model"]["ignore_merges"] = ignores
        prepared = prepare(Tokenizer.from_str(json.dumps(definition)), {}, "test")
        resolved, why = resolve_engine(prepared, engine)
        assert (resolved == engine and why is None) if reason is None else reason in str(why)
    with pytest.raises(EngineMismatchError):
        fast_encoder(prepared).encode(["\U00011db8qqzx"])  # a letter of Unicode 17, and that token


def test_the_cache_of_words_is_bounded(tokenizer_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    roberta = load_tokenizer(str(tokenizer_folders["roberta"]), cased=False)
    rng = random.Random(3)
    texts = [" ".join(str(rng.randrange(10**9)) for _ in range(1000)) for _ in range(20)]
    expected = Encoder(roberta, REFERENCE).encode(texts)
    opened = []
    open_again = fast._Gigatoken._open
    monkeypatch.setattr(fast._Gigatoken, "_open", lambda self: (opened.append(0), open_again(self))[1])
    memory = iter(range(0, 10**12, fast._GIGATOKEN_CACHE_BYTES // 4))
    for measured in (lambda: next(memory) + 1, lambda: None):
        monkeypatch.setattr(fast, "_memory_in_use", measured)
        monkeypatch.setattr(fast, "_GIGATOKEN_CACHE_TEXT", 40_000)
        opened.clear()
        tokenizer = fast.open_fast(roberta.definition)
        assert tokenizer is not None
        parts = [tokenizer.encode(texts[i : i + 2])[0] for i in range(0, 20, 2)]
        assert 2 <= len(opened) <= 6
        assert np.array_equal(np.concatenate(parts), expected[0])

import importlib.util
import random
from pathlib import Path

import numpy as np
import pytest
from conftest import BuildRunner, manifest_of, run_prep
from tokenizers import Tokenizer

from prep.tokens.encoder import REFERENCE, Encoder, EngineMismatchError, installed_engine, resolve_engine
from prep.tokens.tokenizer import PreparedTokenizer, prepare, wordpiece
from prep.tokens.tokenizer_source import load_tokenizer
from shards.errors import UserError

SPELLED = ["a [MASK] b", "[CLS][SEP]", "[mask] [UNK] x[PAD]y", "the [MASK]", "[SEP]"]


def odd_sentences(count: int) -> list[str]:
    rng = random.Random(1)
    pools = [range(32, 127), range(0xA0, 0x250), range(0x300, 0x370), range(0x370, 0x600), range(0x900, 0xA00)]
    pools += [range(0x3040, 0x3100), range(0x4E00, 0x9FFF), range(0x1F300, 0x1F700), range(0x2000, 0x2070), range(32)]
    return ["".join(chr(rng.choice(rng.choice(pools))) for _ in range(rng.randint(1, 60))) for _ in range(count)]


def test_the_fast_engine_is_here_and_equals_the_reference(tokenizer: PreparedTokenizer, paragraphs: list[str]) -> None:
    assert importlib.util.find_spec("nanotoken")
    sentences = paragraphs[:500] + odd_sentences(3000) + SPELLED
    fast, reference = Encoder(tokenizer, installed_engine()), Encoder(tokenizer, REFERENCE)
    assert fast.is_fast and not reference.is_fast and fast.engine.startswith("nanotoken ")
    for a, b in zip(fast.encode(sentences), reference.encode(sentences), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("engine", [installed_engine(), REFERENCE])
def test_special_tokens_spelled_out_are_text(tokenizer: PreparedTokenizer, engine: str) -> None:
    ids, lengths = Encoder(tokenizer, engine).encode(SPELLED)
    forbidden = {number for role, number in tokenizer.special_ids.items() if role != "unk"}
    assert not forbidden & set(ids.tolist()) and len(lengths) == len(SPELLED)
    brackets = [tokenizer.vocab[c] for c in "[]" if c in tokenizer.vocab]
    assert set(brackets) <= set(ids.tolist())


@pytest.mark.parametrize("engine", [installed_engine(), REFERENCE])
def test_even_a_tokenizer_that_splits_at_spaces_only_makes_no_special_token(engine: str) -> None:
    from tokenizers import pre_tokenizers

    vocab = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])}
    raw = wordpiece(vocab, lowercase=False)
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ids, _ = Encoder(prepare(raw, {}, "test"), engine).encode(["a [MASK] b", "[SEP]"])
    assert ids.tolist() == [5, 1, 6, 1]


def test_a_mismatch_in_the_checked_share_is_raised(tokenizer: PreparedTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(tokenizer, installed_engine())
    sentences = [f"sentence number {i}" for i in range(300)]
    right = encoder.encode(sentences)

    def wrong(batch: list[str]) -> tuple[np.ndarray, np.ndarray]:
        return right[0][: len(batch)], np.ones(len(batch), np.int64)

    monkeypatch.setattr(encoder, "_encode_fast", wrong)
    with pytest.raises(EngineMismatchError):
        encoder.encode(sentences, offset=205)


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
        ids, lengths = Encoder(prepared, installed_engine()).encode(spelled)
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
    encoder = Encoder(tokenizer, installed_engine())
    encode, rare = encoder._encode_fast, tokenizer.vocab["union"]

    def wrong(sentences: list[str]) -> tuple[np.ndarray, np.ndarray]:
        ids, lengths = encode(sentences)
        return np.where(ids == rare, rare + 1, ids), lengths

    monkeypatch.setattr(encoder, "_encode_fast", wrong)
    for place in (3, 57, 299):
        sentences = ["the state of the state"] * 300
        sentences[place] = "the state of the union"
        with pytest.raises(EngineMismatchError):
            encoder.encode(sentences, offset=0)


def test_the_engine_is_the_same_for_all_that_have_it_and_named_where_it_is_slow(
    tokenizer: PreparedTokenizer, tokenizer_folders: dict[str, Path]
) -> None:
    engine = installed_engine()
    assert resolve_engine(tokenizer, engine) == (engine, None)
    assert resolve_engine(tokenizer, REFERENCE)[0] == REFERENCE and "pip install" in str(
        resolve_engine(tokenizer, REFERENCE)[1]
    )
    roberta = load_tokenizer(str(tokenizer_folders["roberta"]), cased=False)
    assert resolve_engine(roberta, "nanotoken 99") == (REFERENCE, "nanotoken does not know BPE tokenizers")
    with pytest.raises(UserError, match=r"made with nanotoken 99, but here is nanotoken \d"):
        resolve_engine(tokenizer, "nanotoken 99")
    with pytest.raises(UserError, match="this build uses nanotoken 99"):
        Encoder(tokenizer, "nanotoken 99")


def test_the_manifest_names_the_engine(paragraphs: list[str], build: BuildRunner, tmp_path: Path) -> None:
    corpus = tmp_path / "a.txt"
    corpus.write_text("\n".join(paragraphs[:60]), encoding="utf8")
    fast, slow = build(corpus, name="fast"), build(corpus, "--tokenizer-engine", "reference", name="slow")
    assert manifest_of(fast)["made_with"]["tokenizing_engine"] == installed_engine()
    assert manifest_of(slow)["made_with"]["tokenizing_engine"].startswith("tokenizers ")
    assert manifest_of(fast)["data_fingerprint"] == manifest_of(slow)["data_fingerprint"]

import importlib.util
import random
from pathlib import Path

import numpy as np
import pytest

from prep.settings import Splitting
from prep.tokens.encoder import Encoder, EngineMismatchError
from prep.tokens.sentences import MAX_SENTENCE_CHARS, split_sentences
from prep.tokens.tokenizer import PreparedTokenizer, load_tokenizer, prepare, wordpiece
from shards.errors import UserError

ENGLISH = Splitting("language", "en")
SPELLED = ["a [MASK] b", "[CLS][SEP]", "[mask] [UNK] x[PAD]y", "the [MASK]", "[SEP]"]


@pytest.fixture(scope="module")
def tokenizer(vocabulary: Path) -> PreparedTokenizer:
    return load_tokenizer(str(vocabulary), cased=False)


def odd_sentences(count: int) -> list[str]:
    rng = random.Random(1)
    pools = [range(32, 127), range(0xA0, 0x250), range(0x300, 0x370), range(0x370, 0x600), range(0x900, 0xA00)]
    pools += [range(0x3040, 0x3100), range(0x4E00, 0x9FFF), range(0x1F300, 0x1F700), range(0x2000, 0x2070), range(32)]
    return ["".join(chr(rng.choice(rng.choice(pools))) for _ in range(rng.randint(1, 60))) for _ in range(count)]


def test_the_fast_engine_is_here_and_equals_the_reference(tokenizer: PreparedTokenizer, paragraphs: list[str]) -> None:
    assert importlib.util.find_spec("nanotoken")
    sentences = paragraphs[:500] + odd_sentences(3000) + SPELLED
    fast, reference = Encoder(tokenizer, fast=True), Encoder(tokenizer, fast=False)
    assert fast.is_fast and not reference.is_fast
    for a, b in zip(fast.encode(sentences), reference.encode(sentences), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("fast", [True, False])
def test_special_tokens_spelled_out_are_text(tokenizer: PreparedTokenizer, fast: bool) -> None:
    ids, lengths = Encoder(tokenizer, fast).encode(SPELLED)
    forbidden = {number for role, number in tokenizer.special_ids.items() if role != "unk"}
    assert not forbidden & set(ids.tolist()) and len(lengths) == len(SPELLED)
    brackets = [tokenizer.vocab[c] for c in "[]" if c in tokenizer.vocab]
    assert set(brackets) <= set(ids.tolist())


@pytest.mark.parametrize("fast", [True, False])
def test_even_a_tokenizer_that_splits_at_spaces_only_makes_no_special_token(fast: bool) -> None:
    from tokenizers import pre_tokenizers

    vocab = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])}
    raw = wordpiece(vocab, lowercase=False)
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ids, _ = Encoder(prepare(raw, {}, "test"), fast).encode(["a [MASK] b", "[SEP]"])
    assert ids.tolist() == [5, 1, 6, 1]


def test_a_mismatch_in_the_checked_share_is_raised(tokenizer: PreparedTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(tokenizer, fast=True)
    sentences = [f"sentence number {i}" for i in range(300)]
    right = encoder.encode(sentences)

    def wrong(batch: list[str]) -> tuple[np.ndarray, np.ndarray]:
        return right[0][: len(batch)], np.ones(len(batch), np.int64)

    monkeypatch.setattr(encoder, "_encode_fast", wrong)
    with pytest.raises(EngineMismatchError):
        encoder.encode(sentences, offset=205)


def test_sentences_keep_all_but_white_space() -> None:
    text = "Dr. Smith went. Was it far?\n\n  No!  \x0c\nA last line"
    sentences = split_sentences(text, ENGLISH)
    assert sentences == ["Dr. Smith went.", "Was it far?", "No!", "A last line"]


def test_white_space_that_sentencex_panics_at(capfd: pytest.CaptureFixture[str]) -> None:
    for space in "\x85\xa0\u1680\u2003\u2028\u202f\u205f\u3000":
        text = f"A report by J{space}. Smith came. It was read."
        assert " ".join(split_sentences(text, ENGLISH)) == text
    assert "panicked" not in capfd.readouterr().err


def test_any_other_panic_of_sentencex_costs_the_sentences_not_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock: a panic that is not known yet, by the only mark that its class has."""

    class PanicException(BaseException):  # its name in Rust
        pass

    def panic(language: str, text: str) -> list[str]:
        raise PanicException

    monkeypatch.setattr("sentencex.segment", panic)
    assert split_sentences("One line.\nAnother. And more.", ENGLISH) == ["One line.", "Another. And more."]


def test_a_long_text_in_pieces_is_split_as_in_one() -> None:
    text = "One two three. Four five six! " * 10_000
    assert split_sentences(text, ENGLISH) == ["One two three.", "Four five six!"] * 10_000
    quoted = "He said \u201ca b c. And then. " * 20_000  # takes minutes in one piece
    assert " ".join(split_sentences(quoted, ENGLISH)).split() == quoted.split()


def test_a_million_characters_without_a_space_is_one_sentence() -> None:
    assert split_sentences("x" * 1_000_000, ENGLISH) == ["x" * 1_000_000]


def test_overlong_sentences_are_cut_at_white_space_and_lose_nothing() -> None:
    text = "word " * (MAX_SENTENCE_CHARS // 2)
    pieces = split_sentences(text, ENGLISH)
    assert len(pieces) > 1 and max(map(len, pieces)) <= MAX_SENTENCE_CHARS
    assert " ".join(pieces).split() == text.split()
    unbroken = split_sentences("y" * (MAX_SENTENCE_CHARS + 5), ENGLISH)
    assert [len(piece) for piece in unbroken] == [MAX_SENTENCE_CHARS, 5]


class TestLoading:
    def test_vocab_txt_and_folder_equal_the_json(self, tokenizer: PreparedTokenizer, tmp_path: Path) -> None:
        tokenizer.save(str(tmp_path))
        folder = tmp_path
        by_folder = load_tokenizer(str(folder), cased=False)
        by_vocab = load_tokenizer(str(folder / "vocab.txt"), cased=False)
        assert by_folder.fingerprint == tokenizer.fingerprint == by_vocab.fingerprint

    def test_a_folder_says_whether_it_is_cased(self, tokenizer: PreparedTokenizer, tmp_path: Path) -> None:
        (tmp_path / "vocab.txt").write_text("\n".join(sorted(tokenizer.vocab, key=tokenizer.vocab.__getitem__)))
        (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
        assert '"lowercase": false' in load_tokenizer(str(tmp_path), cased=False).json_text

    def test_truncation_and_padding_are_switched_off(self, tokenizer: PreparedTokenizer, tmp_path: Path) -> None:
        raw = tokenizer.reference
        raw.enable_truncation(16)
        raw.enable_padding(length=16)
        raw.save(str(tmp_path / "tokenizer.json"))
        assert load_tokenizer(str(tmp_path / "tokenizer.json"), cased=False).fingerprint == tokenizer.fingerprint

    @pytest.mark.parametrize(
        ("content", "message"),
        [("{", "not a tokenizer.json"), ('{"model": 3}', "not a tokenizer.json"), ("\x00\x01", "not a tokenizer.json")],
    )
    def test_what_is_no_tokenizer_is_named(self, content: str, message: str, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(UserError, match=message):
            load_tokenizer(str(tmp_path), cased=False)

    def test_missing_special_tokens_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\na\nb\n")
        with pytest.raises(UserError, match=r"has no pad token \(\[PAD\] or <pad>\), no mask token"):
            load_tokenizer(str(tmp_path / "vocab.txt"), cased=False)

    def test_a_saved_tokenizer_loads_in_the_tokenizers_library(self, tokenizer: PreparedTokenizer, tmp_path: Path) -> None:
        from tokenizers import Tokenizer

        tokenizer.save(str(tmp_path))
        encoding = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("the state", "of the union")
        assert encoding.tokens[0] == "[CLS]" and encoding.tokens.count("[SEP]") == 2 and encoding.type_ids[-1] == 1

"""What is saved makes the ids that the data were made with, in transformers' AutoTokenizer, for any tokenizer that is taken."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

from prep.tokens.encoder import Encoder
from prep.tokens.tokenizer import PreparedTokenizer, load_prepared, prepare, wordpiece
from prep.tokens.tokenizer_source import load_tokenizer
from shards.errors import UserError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [*"abcdefgäéößüÄÉABC中文字ｆﬁ.,[]!1", "e\u0301", "\u0301"]
VOCAB = {token: i for i, token in enumerate([*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)])}
TEXTS = st.text(st.sampled_from([*"".join(LETTERS), " ", "\u3000", "\u200b", "\x07", "\u00a0"]), min_size=1, max_size=12)
PLAIN, LOUD = "Größe ÄÖ éa 中文a e\u0301 ｆﬁ", "a [MASK] b[SEP]"
NORMALIZERS = {
    "nfkc": normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
    "nfd": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    "lowercase": normalizers.Lowercase(),
    "none": None,
}


def with_normalizer(name: str, limit: int) -> Tokenizer:
    tokenizer = wordpiece(VOCAB, lowercase=True)
    tokenizer.model = models.WordPiece(VOCAB, unk_token="[UNK]", max_input_chars_per_word=limit)
    tokenizer.normalizer = NORMALIZERS[name]
    return tokenizer


def saved(prepared: PreparedTokenizer, config: dict[str, Any] | None = None) -> Any:
    """AutoTokenizer of what a data set, or with `config` an exported model, holds."""
    with tempfile.TemporaryDirectory() as folder:
        prepared.save(folder)
        assert load_prepared(folder).describe() == prepared.describe()
        if config:
            (Path(folder) / "config.json").write_text(json.dumps(config))
        return AutoTokenizer.from_pretrained(folder)


def check(prepared: PreparedTokenizer, theirs: Any, text: str) -> None:
    ids, _ = Encoder(prepared, "reference").encode([text])
    their_ids = np.array(theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"], np.int64)
    special = np.isin(their_ids, [*prepared.special_ids.values()])  # a text that spells one out: unknown, as for prep
    their_ids[special] = prepared.special_ids["unk"]
    assert their_ids.tolist() == ids.tolist(), text


@given(
    lowercase=st.booleans(),
    strip=st.sampled_from([None, True, False]),
    chinese=st.booleans(),
    texts=st.lists(TEXTS, max_size=8),
)
@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
def test_flags_of_berts_normalizer(lowercase: bool, strip: bool | None, chinese: bool, texts: list[str]) -> None:
    prepared = prepare(wordpiece(VOCAB, lowercase, strip, chinese), {}, "test")
    for theirs in (saved(prepared), saved(prepared, {"model_type": "bert"})):
        assert type(theirs).__name__ == "BertTokenizer"
        for text in (PLAIN, LOUD, *texts):
            check(prepared, theirs, text)


@pytest.mark.parametrize("name", NORMALIZERS)
@pytest.mark.parametrize("limit", [3, 100, 150])
def test_other_normalizers_and_limits(name: str, limit: int) -> None:
    prepared = prepare(with_normalizer(name, limit), {}, "test")
    for theirs in (saved(prepared), saved(prepared, {"model_type": "bert"})):
        for text in (PLAIN, LOUD, "abcd" * 30, "abcdefgabc"):
            check(prepared, theirs, text)
        pair = theirs("a b", "c")
        assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1] and pair["input_ids"][0] == VOCAB["[CLS]"]


def test_white_space_words_and_other_frames() -> None:
    raw = with_normalizer("nfkc", 100)
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    prepared = prepare(raw, {}, "test")
    for text in (PLAIN, LOUD, "a,b"):
        check(prepared, saved(prepared), text)


def test_every_kind_of_tokenizer_and_its_token_types(tokenizer_folders: dict[str, Path], paragraphs: list[str]) -> None:
    for folder in tokenizer_folders.values():
        prepared = load_tokenizer(str(folder), cased=False)
        for theirs in (saved(prepared), saved(prepared, {"model_type": "bert"})):
            for text in [*paragraphs[:5], PLAIN, *(f"a {token}b" for token in prepared.roles.values())]:
                check(prepared, theirs, text)
            template, pair = prepared.templates["pair"], theirs("the state", "the union")
            a = len(template.prefix) + len(theirs("the state", add_special_tokens=False)["input_ids"]) + template.between_a
            assert pair["token_type_ids"] == [int(i >= a) for i in range(len(pair["input_ids"]))]


def test_limits_and_other_fields_are_kept() -> None:
    config = {
        "model_max_length": 2048,
        "padding_side": "left",
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": "x",
        "auto_map": {"AutoTokenizer": ["a.B", None]},
    }
    prepared = prepare(wordpiece(VOCAB, lowercase=True), config, "test")
    names = ["input_ids", "attention_mask"]
    assert prepared.options == {"model_max_length": 2048, "padding_side": "left", "model_input_names": names}
    assert saved(prepared).model_input_names == names
    assert saved(prepared).model_max_length == 2048 and saved(prepared).padding_side == "left"
    plain = prepare(wordpiece(VOCAB, lowercase=True), {"model_max_length": 1e30}, "test")
    assert saved(plain).model_max_length == 512 == saved(plain.for_length(128)).model_max_length
    assert saved(plain.for_length(1024)).model_max_length == 1024


def test_bos_and_eos_are_kept_where_they_change_no_id() -> None:
    """A token that is not special stays a word of the texts."""
    config = {"bos_token": {"content": "[CLS]", "lstrip": False}, "eos_token": "a"}
    prepared = prepare(with_normalizer("lowercase", 100), config, "test")
    theirs = saved(prepared)
    assert (theirs.bos_token, theirs.eos_token) == ("[CLS]", None)
    check(prepared, theirs, "a b a [CLS]")


class TestVocabTxt:
    @pytest.mark.parametrize(
        "config",
        [
            {},
            {"do_lower_case": False},
            {"strip_accents": False},
            {"do_lower_case": False, "strip_accents": True},
            {"tokenize_chinese_chars": False, "tokenizer_class": "BertTokenizerFast"},
            {"tokenizer_class": "ElectraTokenizer", "strip_accents": False},
            {"mask_token": "b", "unk_token": "!"},
        ],
        ids=json.dumps,
    )
    def test_the_configuration_beside_it_is_followed(self, config: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCAB), encoding="utf8")
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"} | config))
        prepared = load_tokenizer(str(tmp_path), cased=False)
        for theirs in (AutoTokenizer.from_pretrained(tmp_path), saved(prepared)):
            for text in (PLAIN, LOUD):
                check(prepared, theirs, text)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"tokenizer_class": "BertJapaneseTokenizer"}, "tokenizer_class is 'BertJapaneseTokenizer'"),
            ({"word_tokenizer_type": "mecab"}, "word_tokenizer_type is 'mecab', and only 'basic' is possible"),
            ({"subword_tokenizer_type": "character"}, "subword_tokenizer_type is 'character'"),
            ({"do_basic_tokenize": False}, "do_basic_tokenize is False"),
            ({"never_split": ["a"]}, "never_split"),
            ({"strip_accents": "no"}, "strip_accents is 'no', must be true or false"),
            ({"added_tokens_decoder": {"99": {"content": "new"}}}, "add 1 tokens, such as 'new'"),
        ],
        ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
    )
    def test_what_cannot_be_done_is_refused(self, config: dict[str, Any], message: str, tmp_path: Path) -> None:
        (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCAB), encoding="utf8")
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=message):
            load_tokenizer(str(tmp_path), cased=False)


def test_flags_beside_a_tokenizer_json_are_followed(tmp_path: Path) -> None:
    wordpiece(VOCAB, lowercase=True).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "strip_accents": false}')
    prepared = load_tokenizer(str(tmp_path), cased=False)
    for theirs in (AutoTokenizer.from_pretrained(tmp_path), saved(prepared)):
        check(prepared, theirs, PLAIN)


def test_ids_with_gaps_are_taken_and_saved() -> None:
    vocab = {token: i + (i > 30) + 2 * (i > 40) for token, i in VOCAB.items()}
    prepared = prepare(wordpiece(vocab, lowercase=False), {}, "test")
    assert prepared.unused_ids == [(31, 32), (42, 44)] and prepared.vocab_size == len(VOCAB) + 3
    check(prepared, saved(prepared), PLAIN)
    assert prepare(wordpiece(VOCAB, lowercase=False), {}, "test").unused_ids == []

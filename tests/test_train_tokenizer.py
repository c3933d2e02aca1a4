"""`--model` with a tokenizer of the same entries that does something else with texts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prep.tokens.tokenizer import prepare, wordpiece
from shards import storage
from shards.errors import UserError
from shards.manifest import Manifest
from train.data.tokenizer import compare_tokenizers

PIECES = ["größe", "grosse", "schon", "schön", "uber", "über", "the", "quick", "brown", "fox", "cafe", "café", "ab"]
CHARACTERS = sorted(set("abcdefghijklmnopqrstuvwxyzäöüßé漢字かな中文0123456789"))
ENTRIES = {
    token: number
    for number, token in enumerate(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS, *(f"##{c}" for c in CHARACTERS), *PIECES]
    )
}


def data_set(tmp_path: Path) -> tuple[str, Manifest]:
    prepared = prepare(wordpiece(ENTRIES, lowercase=True), {}, "test")
    prepared.save(str(tmp_path / "data" / "tokenizer"))
    return str(tmp_path / "data"), Manifest({}, prepared.describe(), {}, {}, {}, {}, 1)


def model_folder(tmp_path: Path, url: str, change: Callable[[dict[str, Any]], None]) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    definition = json.loads(storage.read_bytes(f"{url}/tokenizer/tokenizer.json"))
    change(definition)
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    return folder


def test_the_same_tokenizer_passes_in_silence(tmp_path: Path) -> None:
    url, manifest = data_set(tmp_path)
    assert list(compare_tokenizers(str(model_folder(tmp_path, url, lambda definition: None)), url, manifest)) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["normalizer"].update(lowercase=False),
        lambda d: d["normalizer"].update(strip_accents=False),
        lambda d: d["normalizer"].update(handle_chinese_chars=False),
        lambda d: d["normalizer"].update(clean_text=False),
        lambda d: d.update(normalizer={"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}),
        lambda d: d.update(pre_tokenizer={"type": "WhitespaceSplit"}),
        lambda d: d["model"].update(max_input_chars_per_word=200),
        lambda d: d["model"].update(continuing_subword_prefix="@@"),
    ],
    ids=["case", "accents", "chinese", "control characters", "NFKC", "spaces", "long words", "prefix"],
)
def test_the_same_entries_with_other_rules_are_refused(change: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    url, manifest = data_set(tmp_path)
    with pytest.raises(UserError, match=r"has the data set's entries, but makes .* build the data set with") as caught:
        list(compare_tokenizers(str(model_folder(tmp_path, url, change)), url, manifest))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("config", "fits"), [({}, True), ({"do_lower_case": False}, False), ({"strip_accents": False}, False)])
def test_a_vocabulary_alone_follows_its_configuration(config: dict[str, bool], fits: bool, tmp_path: Path) -> None:
    url, manifest = data_set(tmp_path)
    folder = model_folder(tmp_path, url, lambda definition: None)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(ENTRIES), encoding="utf8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **config}))
    if fits:
        assert list(compare_tokenizers(str(folder), url, manifest)) == []
        return
    with pytest.raises(UserError, match="its tokenizer has the data set's entries, but makes"):
        list(compare_tokenizers(str(folder), url, manifest))


def test_a_tokenizer_that_the_library_panics_on_is_one_line(tmp_path: Path) -> None:
    url, manifest = data_set(tmp_path)
    folder = model_folder(tmp_path, url, lambda d: d["model"].update(unk_token="none"))
    with pytest.raises(UserError) as caught:
        list(compare_tokenizers(str(folder), url, manifest))
    assert "\n" not in str(caught.value)

from pathlib import Path

from prep.tokens.tokenizer import PreparedTokenizer, load_prepared, prepare, wordpiece
from prep.tokens.tokenizer_source import load_tokenizer


def load(folder: Path) -> PreparedTokenizer:
    return load_tokenizer(str(folder), cased=False)


def test_what_is_saved_loads_again_with_its_roles(tokenizer_folders: dict[str, Path], tmp_path: Path) -> None:
    for name, folder in tokenizer_folders.items():
        first = load(folder)
        first.save(str(tmp_path / name))
        for again in (load_prepared(str(tmp_path / name)), load(tmp_path / name)):
            assert (again.fingerprint, again.special_ids, again.templates) == (
                first.fingerprint,
                first.special_ids,
                first.templates,
            )


def test_transformers_loads_what_is_saved(tokenizer_folders: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for name, folder in tokenizer_folders.items():
        prepared = load(folder)
        prepared.save(str(tmp_path / name))
        theirs = AutoTokenizer.from_pretrained(str(tmp_path / name))
        template = prepared.templates["pair"]
        ids = theirs("the state", "the union")["input_ids"]
        assert theirs.mask_token_id == prepared.special_ids["mask"] and theirs.pad_token_id == prepared.special_ids["pad"]
        assert tuple(ids[: len(template.prefix)]) == template.prefix and tuple(ids[-len(template.suffix) :]) == template.suffix


def test_words_that_the_library_treats_in_another_way_than_the_published_code() -> None:
    """Where `tokenizers` and transformers agree and the published Python differs: they decide, and prep follows them."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "w", "##w", "\u03bf\u03b4\u03bf\u03c3", "\u03bf\u03b4\u03bf\u03c2"]
    vocab = {token: number for number, token in enumerate(tokens)}
    prepared = prepare(wordpiece(vocab, lowercase=True), {}, "test")

    def pieces(text: str) -> list[str]:
        return list(prepared.reference.encode(text, add_special_tokens=False).tokens)

    assert len(pieces("w" * 100)) == 100 and pieces("w" * 101) == ["[UNK]"]  # the published code cuts up to 200 characters
    assert pieces("w\ue000w") == ["w", "##w"]  # private use: dropped, there [UNK]
    assert pieces("\u039f\u0394\u039f\u03a3") == ["\u03bf\u03b4\u03bf\u03c3"]  # a final capital sigma, there the final form


def test_a_saved_tokenizer_loads_in_the_tokenizers_library(tokenizer: PreparedTokenizer, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer.save(str(tmp_path))
    encoding = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("the state", "of the union")
    assert encoding.tokens[0] == "[CLS]" and encoding.tokens.count("[SEP]") == 2 and encoding.type_ids[-1] == 1

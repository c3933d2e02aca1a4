import pytest

from prep.settings import Splitting
from prep.tokens.sentences import MAX_SENTENCE_CHARS, split_sentences

ENGLISH = Splitting("language", "en")


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

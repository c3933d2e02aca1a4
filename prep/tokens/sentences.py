"""Documents -> sentences."""

import re
from importlib.metadata import version

import sentencex

from prep.settings import Splitting

SPLITTER = f"sentencex {version('sentencex')}, in pieces"
PIECE_CHARS = 1 << 16
"""A longer text is split piece by piece: sentencex takes time in the square of a text with an unclosed quotation."""
MAX_SENTENCE_CHARS = 1 << 20
"""Longer sentences are cut: a tokenizer holds some 50 bytes for each character at once."""
_SPACE = re.compile(r"[ \t\n\r]")  # not all that str.isspace() knows: BERT's normalizer deletes some and joins what they part
_WIDE_SPACES = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")


def split_sentences(text: str, splitting: Splitting) -> list[str]:
    """The sentences of a text, stripped, in order; none of them empty. Full stops that end one are left out."""
    if splitting.rule == "language":
        return _by_language(text, splitting.language)
    parts = text.split("\n" if splitting.rule == "line" else ".")
    return [piece for part in parts if (stripped := part.strip()) for piece in _limited(stripped)]


def _limited(sentence: str) -> list[str]:
    """The sentence in pieces of at most MAX_SENTENCE_CHARS, cut behind white space where there is some."""
    pieces, start = [], 0
    while start < len(sentence):
        stop = _piece_end(sentence, start)
        pieces.append(sentence[start:stop].strip())
        start = stop
    return [piece for piece in pieces if piece]


def _by_language(text: str, language: str) -> list[str]:
    if len(text) <= PIECE_CHARS:
        sentences = _segment(text, language)
    else:
        sentences, start = [], 0
        while start < len(text):
            stop = _piece_end(text, start)
            piece = _segment(text[start:stop], language)
            if stop < len(text) and len(piece) > 1:
                stop -= len(piece.pop())  # it may go on: it begins the next piece
            sentences += piece
            start = stop
    return [stripped for sentence in sentences if (stripped := sentence.strip())]


def _piece_end(text: str, start: int) -> int:
    """Where a piece that begins at `start` ends: behind white space, or after MAX_SENTENCE_CHARS without any."""
    limit = start + MAX_SENTENCE_CHARS
    space = _SPACE.search(text, start + PIECE_CHARS, limit)
    return min(len(text), space.end() if space else limit)


def _segment(text: str, language: str) -> list[str]:
    """The text cut into sentences, nothing lost. Some white space that is not ASCII makes sentencex panic: it sees spaces."""
    plain = text if text.isascii() else _WIDE_SPACES.sub(" ", text)
    try:
        parts: list[str] = sentencex.segment(language, plain)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # a panic of the Rust library; no class of it can be imported
            raise
        return text.splitlines(keepends=True)
    if plain is text:
        return parts
    cut, at = [], 0
    for part in parts:
        cut.append(text[at : at + len(part)])
        at += len(part)
    return cut

"""Documents -> sentences."""

import re
from importlib.metadata import version

import sentencex

from prep.settings import Splitting

SPLITTER = f"sentencex {version('sentencex')}, in pieces"
# Longer texts are split piece by piece: after an unclosed quotation mark, sentencex takes quadratic time.
PIECE_CHARS = 1 << 16
# Longer sentences are cut: a tokenizer needs some 50 bytes of memory for each character of a sentence.
MAX_SENTENCE_CHARS = 1 << 20
# Fewer than str.isspace() knows: BERT's normalizer deletes some of those, and would join the words around a cut.
_SPACE = re.compile(r"[ \t\n\r]")
_WIDE_SPACES = "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
_NARROWED = str.maketrans(dict.fromkeys(_WIDE_SPACES, " "))


def split_sentences(text: str, splitting: Splitting) -> list[str]:
    """The sentences of a text, in order, stripped, none empty. With the rule `fullstop` they lose their full stops.

    With the rule `whole` the only one is the text, as it is.
    """
    if splitting.rule == "whole":
        return [text] if text else []
    if splitting.rule == "language":
        return _split_by_language(text, splitting.language)
    parts = text.split("\n" if splitting.rule == "line" else ".")
    return [piece for part in parts if (stripped := part.strip()) for piece in _cut_long(stripped)]


def _cut_long(sentence: str) -> list[str]:
    """The sentence in pieces of at most MAX_SENTENCE_CHARS, cut after white space if there is any."""
    pieces, start = [], 0
    while start < len(sentence):
        stop = _piece_end(sentence, start)
        pieces.append(sentence[start:stop].strip())
        start = stop
    return [piece for piece in pieces if piece]


def _split_by_language(text: str, language: str) -> list[str]:
    if len(text) <= PIECE_CHARS:
        sentences = _segment(text, language)
    else:
        sentences, start = [], 0
        while start < len(text):
            stop = _piece_end(text, start)
            piece = _segment(text[start:stop], language)
            if stop < len(text) and len(piece) > 1:
                # The piece may end within its last sentence, so the next piece starts with that sentence.
                stop -= len(piece.pop())
            sentences += piece
            start = stop
    return [stripped for sentence in sentences if (stripped := sentence.strip())]


def _piece_end(text: str, start: int) -> int:
    """The end of a piece that begins at `start`: after white space, or after MAX_SENTENCE_CHARS if there is none."""
    limit = start + MAX_SENTENCE_CHARS
    space = _SPACE.search(text, start + PIECE_CHARS, limit)
    return min(len(text), space.end() if space else limit)


def _segment(text: str, language: str) -> list[str]:
    """The text cut into sentences; joined, they are the text."""
    # sentencex panics at some white space outside ASCII, so it gets a space for each.
    has_wide = not text.isascii() and any(space in text for space in _WIDE_SPACES)
    plain = text.translate(_NARROWED) if has_wide else text
    try:
        parts: list[str] = sentencex.segment(language, plain)
    except BaseException as error:
        # A panic of the Rust library is a BaseException, and its class cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        return text.splitlines(keepends=True)
    if plain is text:
        return parts
    sentences, at = [], 0
    for part in parts:
        sentences.append(text[at : at + len(part)])
        at += len(part)
    return sentences

"""Documents -> sentences."""

from importlib.metadata import version

import sentencex

SPLITTER = f"sentencex {version('sentencex')}"
MAX_SENTENCE_CHARS = 1 << 20
"""Longer sentences are cut, where they can be at white space: a tokenizer holds some 50 bytes for each character at once."""
_CUT_AT = " \t\n\r"  # not at all that str.isspace() knows: BERT's normalizer deletes some and joins what they part


def split_sentences(text: str, language: str) -> list[str]:
    """The sentences of a text, stripped, in order; none of them empty."""
    sentences = [sentence.strip() for sentence in sentencex.segment(language, text)]
    if len(text) > MAX_SENTENCE_CHARS:
        sentences = [piece for sentence in sentences for piece in _cut(sentence)]
    return [sentence for sentence in sentences if sentence]


def _cut(sentence: str) -> list[str]:
    pieces = []
    while len(sentence) > MAX_SENTENCE_CHARS:
        at = max(sentence.rfind(space, 0, MAX_SENTENCE_CHARS) for space in _CUT_AT)
        at = at if at > 0 else MAX_SENTENCE_CHARS
        pieces.append(sentence[:at].strip())
        sentence = sentence[at:].strip()
    return [*pieces, sentence]

"""A long document -> parts that are encoded one by one, and that together give the ids of the whole.

A tokenizer needs some 50 bytes of memory for each character of a text, so a document of 64 MB cannot be encoded at once. It
is cut at a blank or a line end between two words, where the tokenizer must show three things: no token of its vocabulary
crosses such a place, no added token does, and words of many kinds give the same ids with and without the cut. A document of
a tokenizer that does not show them stays whole.
"""

import json
import re
from collections.abc import Mapping
from itertools import product
from typing import Literal

from tokenizers import Tokenizer

# Shorter documents are never cut.
PART_CHARS = 1 << 20
# Part of the token store's key. Raise it when a document is cut in other places.
VERSION = "whole documents, version 1"

# Which part gets the separator at a cut: the one after it, the one before it, or none (the tokenizer adds one to each text).
Cut = Literal["before", "after", "drop"]
_STYLES: tuple[Cut, ...] = ("before", "drop", "after")
# A separator, and its marks in the vocabularies of byte-level BPE and of SentencePiece.
_MARKS = {" ": " \u0120\u2581", "\n": "\n\u010a\u2581"}
_BLANK_MARKS = " \n\t\r\u0120\u010a\u0109\u010d\u2581"
_WORDS = (
    "The",
    "end",
    "of",
    "I",
    "a",
    "9",
    "2026",
    "x7",
    "s",
    "t",
    "re",
    "\u00e9t\u00e9",
    "\u0417\u0430\u0440\u044f",
    "\u4e2d\u6587",
)
_WORDS_OF_OTHERS = (
    "\u0645\u0631\u062d\u0628\u0627",
    "\u0928",
    "\ud55c\uae00",
    "A" * 120,
    "ACGT",
    "_init",
    "ﬁn",
    "\u01c5",
    "\u0130",
    "ss\u00df",
)


def cut_text(text: str, cuts: Mapping[str, Cut]) -> list[str]:
    """The text in parts of about PART_CHARS; whole if it is shorter, or where there is no place to cut it."""
    if len(text) <= PART_CHARS or not cuts:
        return [text]
    place = re.compile(rf"(?<=\w)[{''.join(cuts)}](?=\w)")
    parts, start = [], 0
    while found := place.search(text, start + PART_CHARS):
        cut, at = cuts[found[0]], found.start()
        parts.append(text[start : at + (cut == "after")])
        start = at + (cut != "before")
    return [*parts, text[start:]]


def find_cuts(tokenizer: Tokenizer) -> dict[str, Cut]:
    """Separator -> how a text may be cut at it, between two words; a separator at which it may not be cut is left out."""
    definition = json.loads(tokenizer.to_str())
    for token in definition["added_tokens"]:
        if not token["special"] and (token["rstrip"] or re.search(r"\w[ \n]\w", token["content"])):
            return {}
    tokens = list(tokenizer.get_vocab(with_added_tokens=False))
    found: dict[str, Cut] = {}
    for separator, marks in _MARKS.items():
        crossing = re.compile(rf"[^{re.escape(_BLANK_MARKS)}!-/:-@\[-`{{-~][{re.escape(marks)}]")
        if any(map(crossing.search, tokens)):
            continue
        style = next((style for style in _STYLES if _is_invisible(tokenizer, separator, style)), None)
        if style:
            found[separator] = style
    return found


def _is_invisible(tokenizer: Tokenizer, separator: str, style: Cut) -> bool:
    """Whether words of many kinds, two by two, give the same ids in one text and in two."""
    words = (*_WORDS, *_WORDS_OF_OTHERS)
    wholes, lefts, rights = [], [], []
    for first, second in product(words, words):
        left, right = f"{first} no, {first}", f"{second} {first}.\n"
        wholes.append(left + separator + right)
        lefts.append(left + separator * (style == "after"))
        rights.append(separator * (style == "before") + right)
    ids = [
        [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
        for texts in (wholes, lefts, rights)
    ]
    return all(whole == left + right for whole, left, right in zip(*ids, strict=True))

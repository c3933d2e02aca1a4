"""The pairings, one row each: all that other modules need to know of them.

A new pairing is a module with its loop and a row here. The loops are imported when they run: compiled code takes half a second
to load, which `--help` need not wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from prep.pairing.sequences import Docs, Sequences
    from prep.tally import Tally
    from shards.schema import Ints

Pairing = Literal["nsp", "paragraph", "sop", "none", "document"]


class Limits(NamedTuple):
    """What the settings allow a sequence."""

    max_tokens: int  # special tokens not counted
    short_seq_prob: float  # of a document whose sequences aim at a random shorter length
    separator: int | None  # id between documents in one sequence; None: a sequence stays in its document
    overlap: int  # tokens that a piece of a long document shares with the one before it


@dataclass(frozen=True)
class Labels:
    """The words for the labels of a pair task."""

    names: tuple[str, str]  # of label 0 and of label 1
    sentences: tuple[str, str]  # the same, beside a passage
    meaning: str  # one line, for the card
    task: str  # its tag on the Hugging Face Hub


@dataclass(frozen=True)
class PairingRecipe:
    """A pairing: its loop, and what it takes and gives."""

    # The ids [T] that the sequences are indices of (those of the documents, or with separators), the sequences, the tally.
    make: Callable[[Docs, Limits], tuple[Ints, Sequences, Tally]]
    template: Literal["pair", "single"]  # how the tokenizer frames a sequence
    labels: Labels | None  # None: no pair task
    short_seq_prob: float | None  # its default; None: sequences have no target length, so the setting is refused
    split_rule: Literal["language", "fullstop", "whole"]  # where sentences end with --sentences auto; whole: at no place
    min_documents: int  # different documents that a split needs; random segments need a second one
    crosses_documents: bool  # whether --cross-documents is allowed

    @property
    def keeps_text(self) -> bool:
        """Whether a document is encoded as it is, without a sentence splitter."""
        return self.split_rule == "whole"


def _next_sentence(docs: Docs, limits: Limits) -> tuple[Ints, Sequences, Tally]:
    from prep.pairing.nsp import pair_next_sentence

    return docs.ids, *pair_next_sentence(docs, limits.max_tokens, limits.short_seq_prob)


def _paragraph(docs: Docs, limits: Limits) -> tuple[Ints, Sequences, Tally]:
    from prep.pairing.paragraph import pair_paragraphs

    return docs.ids, *pair_paragraphs(docs, limits.max_tokens)


def _sentence_order(docs: Docs, limits: Limits) -> tuple[Ints, Sequences, Tally]:
    from prep.pairing.sop import pair_sentence_order

    return docs.ids, *pair_sentence_order(docs, limits.max_tokens, limits.short_seq_prob)


def _full_sentences(docs: Docs, limits: Limits) -> tuple[Ints, Sequences, Tally]:
    from prep.pairing.full_sentences import fill_sentences

    return fill_sentences(docs, limits.max_tokens, limits.short_seq_prob, limits.separator)


def _document(docs: Docs, limits: Limits) -> tuple[Ints, Sequences, Tally]:
    from prep.pairing.document import cut_documents

    return docs.ids, *cut_documents(docs, limits.max_tokens, limits.overlap)


_NEXT = Labels(
    names=("next", "not next"),
    sentences=("B is next", "B is not next"),
    meaning="0, B follows A in its document; 1, it does not",
    task="next-sentence-prediction",
)
_ORDER = Labels(
    names=("in order", "swapped"),
    sentences=("A and B are in order", "A and B are swapped"),
    meaning="0, A and B are in order; 1, they are swapped",
    task="sentence-order-prediction",
)

RECIPES: dict[Pairing, PairingRecipe] = {
    "nsp": PairingRecipe(_next_sentence, "pair", _NEXT, 0.1, "language", 2, crosses_documents=False),
    "paragraph": PairingRecipe(_paragraph, "pair", _NEXT, None, "fullstop", 1, crosses_documents=False),
    "sop": PairingRecipe(_sentence_order, "pair", _ORDER, 0.1, "language", 1, crosses_documents=False),
    "none": PairingRecipe(_full_sentences, "single", None, 0.0, "language", 1, crosses_documents=True),
    "document": PairingRecipe(_document, "single", None, None, "whole", 1, crosses_documents=False),
}


def recipe_of(settings: Mapping[str, Any]) -> PairingRecipe:
    """The pairing of a data set, by the settings in its manifest, whose names were checked when it was opened."""
    return RECIPES[settings["pairing"]]

"""Sequences of a data set as marked text: what `prep show` prints and `prep report` shows."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

import numpy as np
from tokenizers import decoders

from prep.pairing.recipes import recipe_of
from prep.tokens.tokenizer import PreparedTokenizer
from shards.command.console import printable
from shards.manifest import Manifest
from shards.mask_units import STARTS_WORD
from shards.report.sheet import Look, Passage, Span
from shards.schema import Rows

LEGEND = (Span("[shown→original]", "masked"), Span(" a masked token; [shown] if it was kept as it is"))
_LABEL_LOOKS: tuple[Look, Look] = ("next", "not-next")


class TokenText(NamedTuple):
    """How a token reads: its characters, whether it continues the word of the token before it, and whether it is special."""

    text: str
    continues_word: bool
    is_special: bool


UNKNOWN = TokenText("?", False, False)


def token_texts(tokenizer: PreparedTokenizer) -> dict[int, TokenText]:
    """Id -> text of every token, printable, for each kind of tokenizer."""
    special = set(tokenizer.special_ids.values())
    flags = tokenizer.word_flags
    byte_level = '"ByteLevel"' in tokenizer.json_text
    texts = {}
    for token, number in tokenizer.vocab.items():
        if number in special:
            texts[number] = TokenText(printable(token), False, True)
            continue
        continues_word = flags is not None and not flags[number] & STARTS_WORD
        # SentencePiece marks the start of a word with U+2581, WordPiece its continuation with ##.
        plain = decoders.ByteLevel().decode([token]) if byte_level else token.replace("\u2581", " ").removeprefix("##")
        # A token of blanks alone is shown as an open box (U+2423), or it would be invisible.
        texts[number] = TokenText(printable(plain.strip(" ") or "\u2423"), continues_word, False)
    return texts


def passage(
    rows: Rows, sequence: int, texts: Mapping[int, TokenText], manifest: Manifest, place: str, first_row: int
) -> Passage:
    """Sequence number `sequence` of a row group: a headline with its label, segment A and, if there is one, segment B.

    `first_row` is the row group's first row in its shard; the headline counts rows from there.
    """
    row = int(np.searchsorted(rows.sequence_offsets, sequence, side="right")) - 1
    sequence -= int(rows.sequence_offsets[row])
    rows = rows.slice(row, row + 1)
    start, stop = (int(edge) for edge in rows.sequence_starts()[sequence : sequence + 2])
    a_stop = start + int(rows.segment_a_lengths[sequence])
    headline = [Span(f"{place}, row {first_row + row}: {stop - start} tokens", "strong")]
    if rows.next_sentence_label is not None:
        labels, label = recipe_of(manifest.settings).labels, int(rows.next_sentence_label[sequence])
        if labels:
            headline.append(Span(f", {labels.sentences[label]}", _LABEL_LOOKS[label]))
    pieces = list(_pieces(rows, texts, manifest.tokenizer["special_ids"]["mask"]))
    segments: list[tuple[str, Look, int, int]] = [("A", "a", start, a_stop), ("B", "b", a_stop, stop)]
    lines = [
        (Span(f"{name} ", segment_look), _merged((text, look or segment_look) for text, look in pieces[first:last]))
        for name, segment_look, first, last in segments
        if last > first
    ]
    return Passage(headline, lines)


def _pieces(rows: Rows, texts: Mapping[int, TokenText], mask_id: int) -> Iterator[tuple[str, Look]]:
    """Each token's text with its look; an ordinary token has none and takes that of its segment."""
    original: dict[int, int] = {}
    if rows.masked_labels is not None:
        original = dict(zip(rows.masked_indices().tolist(), rows.masked_labels.tolist(), strict=True))
    for place, number in enumerate(rows.input_ids.tolist()):
        token = texts.get(number, UNKNOWN)
        if place in original:
            label = texts.get(original[place], UNKNOWN)
            visible = "MASK" if number == mask_id else token.text
            text = f"[{visible}→{label.text}]" if number != original[place] else f"[{visible}]"
            yield ("" if label.continues_word else " ") + text, "masked"
        else:
            yield ("" if token.continues_word else " ") + token.text, "dim" if token.is_special else ""


def _merged(pieces: Iterable[tuple[str, Look]]) -> tuple[Span, ...]:
    """Runs of one look as one span, but each masked token by itself."""
    runs = groupby(enumerate(pieces), lambda piece: (piece[1][1], piece[0] if piece[1][1] == "masked" else 0))
    return tuple(Span("".join(text for _, (text, _) in run), look) for (look, _), run in runs)

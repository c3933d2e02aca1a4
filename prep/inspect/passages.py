"""Sequences of a data set as marked text: what `prep show` prints and `prep report` shows."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

import numpy as np

from prep.inspect.token_texts import TokenText
from shards.manifest import Manifest
from shards.report.sheet import Passage, Span
from shards.schema import Rows

LEGEND = (Span("[shown→original]", "masked"), Span(" a masked token; [shown] where it was kept as it is"))
_NEXT = {0: Span(", B is next", "next"), 1: Span(", B is not next", "not-next")}
_ORDER = {0: Span(", A and B are in order", "next"), 1: Span(", A and B are swapped", "not-next")}
_UNKNOWN = TokenText("?", False, False)


def passage(
    rows: Rows, sequence: int, texts: Mapping[int, TokenText], manifest: Manifest, place: str, first_row: int
) -> Passage:
    """One sequence of a block: a headline with its label, segment A and, where there is one, segment B.

    `first_row`: where in the shard the block begins.
    """
    row = int(np.searchsorted(rows.sequence_offsets, sequence, side="right")) - 1
    sequence -= int(rows.sequence_offsets[row])
    rows = rows.slice(row, row + 1)
    start, stop = (int(edge) for edge in rows.sequence_starts()[sequence : sequence + 2])
    a_stop = start + int(rows.segment_a_lengths[sequence])
    headline = [Span(f"{place}, row {first_row + row}: {stop - start} tokens", "strong")]
    if rows.next_sentence_label is not None:
        labels = _ORDER if manifest.settings.get("pairing") == "sop" else _NEXT
        headline.append(labels[int(rows.next_sentence_label[sequence])])
    pieces = list(_pieces(rows, texts, manifest.tokenizer["special_ids"]["mask"]))
    lines = [
        (Span(f"{name} ", own), _merged((shown, mark or own) for shown, mark in pieces[first:last]))
        for name, own, first, last in (("A", "a", start, a_stop), ("B", "b", a_stop, stop))
        if last > first
    ]
    return Passage(headline, lines)


def _pieces(rows: Rows, texts: Mapping[int, TokenText], mask_id: int) -> Iterator[tuple[str, str]]:
    """Each token as it is shown, with its mark; no mark for an ordinary token of a segment."""
    original: dict[int, int] = {}
    if rows.masked_labels is not None:
        original = dict(zip(rows.masked_indices().tolist(), rows.masked_labels.tolist(), strict=True))
    for place, number in enumerate(rows.input_ids.tolist()):
        token = texts.get(number, _UNKNOWN)
        if place in original:
            label = texts.get(original[place], _UNKNOWN)
            shown = "MASK" if number == mask_id else token.text
            marked = f"[{shown}→{label.text}]" if number != original[place] else f"[{shown}]"
            yield ("" if label.goes_on else " ") + marked, "masked"
        else:
            yield ("" if token.goes_on else " ") + token.text, "dim" if token.is_special else ""


def _merged(pieces: Iterable[tuple[str, str]]) -> tuple[Span, ...]:
    """Runs of one mark as one piece, but each masked token by itself."""
    runs = groupby(enumerate(pieces), lambda piece: (piece[1][1], piece[0] if piece[1][1] == "masked" else 0))
    return tuple(Span("".join(shown for _, (shown, _) in run), mark) for (mark, _), run in runs)

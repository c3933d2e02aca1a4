"""The rules of README.md about the content of rows: the expensive half, which `prep verify` adds to the gate."""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from shards.gate.rows import Limits, check_rows
from shards.mask_units import ENDS_WORD, STARTS_WORD
from shards.masking import Masking
from shards.schema import Ints, Offsets, Rows
from shards.template import Template


def row_faults(
    rows: Rows,
    limits: Limits,
    special_ids: Mapping[str, int],
    masking: Masking | None,
    template: Template,
    cross_documents: bool = False,
) -> list[str]:
    """What is wrong with decoded rows, a line each; an empty list if all rules of the format hold.

    `masking` is the rule of the data set; None if the masking is dynamic. Rows that do not pass the gate are not checked
    any further.
    """
    try:
        check_rows(rows, limits)
    except ValueError as error:
        return [str(error)]
    faults: list[str] = []
    starts, a_lengths = rows.sequence_starts(), rows.segment_a_lengths.astype(np.int64)
    least = len(template.prefix) + (template.between_a if template.between else len(template.suffix))
    if len(a_lengths) and a_lengths.min() < least:
        return [f"segment_a_lengths has a value below {least}"]
    faults += _special_faults(rows.input_ids, starts, a_lengths, special_ids, template, cross_documents)
    if masking is None and rows.masked_positions is not None:
        faults.append("masked_positions is present although the masking is dynamic")
    if masking is not None:
        faults += _mask_faults(rows, special_ids, masking)
    return faults


def _special_faults(
    ids: Ints, starts: Offsets, a_lengths: Ints, special_ids: Mapping[str, int], template: Template, cross_documents: bool
) -> Iterator[str]:
    """Special tokens that are missing from their places, or are at other places."""
    first, end = starts[:-1], starts[1:]
    expected = np.zeros(len(ids), np.bool_)
    paired = first[a_lengths < end - first]
    a_ends = paired + a_lengths[a_lengths < end - first]
    places = (
        (first, template.prefix, "a sequence does not start with [CLS]"),
        (end - len(template.suffix), template.suffix, "a segment does not end with [SEP]"),
        (a_ends - template.between_a, template.between, "a segment does not end with [SEP]"),
    )
    for at, tokens, fault in places:
        for i, token in enumerate(tokens):
            where = at + i
            inside = where[(where >= 0) & (where < len(ids))]
            if len(inside) < len(where) or (ids[inside] != token).any():
                yield fault
            expected[inside] = True
    if len(paired) and not template.between:
        yield "a sequence has two segments where the data set has one each"
    separators = {*template.prefix, *template.between, *template.suffix, special_ids["pad"]}
    separators |= {special_ids[role] for role in ("cls", "sep") if role in special_ids}
    elsewhere = np.isin(ids, sorted(separators)) & ~expected
    if cross_documents and elsewhere.any():  # a separator between documents has text on both sides
        sep = np.flatnonzero(elsewhere & (ids == special_ids["sep"]))
        around = (np.maximum(sep - 1, 0), np.minimum(sep + 1, len(ids) - 1))
        lonely = np.logical_or.reduce([expected[place] | elsewhere[place] for place in around])
        elsewhere[sep[~lonely]] = False
    if elsewhere.any():
        yield "input_ids holds [CLS], [SEP] or [PAD] inside a segment"


def _mask_faults(rows: Rows, special_ids: Mapping[str, int], masking: Masking) -> list[str]:
    if rows.masked_positions is None or rows.masked_labels is None or rows.masked_offsets is None:
        return ["masked_positions is absent although the masking is static"]
    indices = rows.masked_indices()
    labels, faults = rows.masked_labels, []
    special = sorted(special_ids.values())
    if np.isin(labels, special).any():
        faults.append("masked_labels holds a special token")
    shown = rows.input_ids[indices]
    if np.isin(shown[shown != special_ids["mask"]], special).any():
        faults.append("a special token other than [MASK] stands at a masked position")
    if np.count_nonzero(rows.input_ids == special_ids["mask"]) != np.count_nonzero(shown == special_ids["mask"]):
        faults.append("input_ids holds [MASK] at a position that masked_positions does not name")
    starts = rows.sequence_starts()
    original = rows.input_ids.copy()
    original[indices] = labels
    is_ordinary = ~np.isin(original, special)
    ordinary = np.add.reduceat(is_ordinary, starts[:-1], dtype=np.int64) if len(original) else np.zeros(0, np.int64)
    selected = np.diff(np.searchsorted(indices, starts))
    counts = masking.counts(int(rows.sequence_lengths.max(initial=0)))[rows.sequence_lengths]
    if masking.unit == "token" and not np.array_equal(selected, np.minimum(counts, ordinary)):
        faults.append("a sequence does not have the number of masked tokens that the mask rate asks for")
    if masking.unit != "token":
        if (selected > np.minimum(counts + masking.slack, ordinary)).any():
            faults.append("a sequence has more masked tokens than the mask rate allows")
        if _half_words(original, indices, starts, is_ordinary, masking):
            faults.append("a word is masked in part")
    return faults


def _half_words(original: Ints, indices: Offsets, starts: Offsets, ordinary: npt.NDArray[np.bool_], masking: Masking) -> bool:
    """Whether a word has both masked and other tokens."""
    assert masking.word_flags is not None
    flags = masking.word_flags[original]
    begins = np.ones(len(original), np.bool_)
    begins[1:] = ((flags[1:] & STARTS_WORD) > 0) | ((flags[:-1] & ENDS_WORD) > 0) | ~ordinary[1:] | ~ordinary[:-1]
    begins[starts[:-1]] = True
    word = np.cumsum(begins) - 1
    masked = np.bincount(word[indices], minlength=word[-1] + 1 if len(word) else 0)
    return bool(((masked > 0) & (masked < np.bincount(word))).any()) if len(word) else False

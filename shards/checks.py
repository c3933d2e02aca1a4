"""What must hold of decoded rows, beyond what their types say: the checks of the format's README.md."""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from shards.mask_units import ENDS_WORD, STARTS_WORD
from shards.masking import Masking
from shards.schema import Ints, Offsets, Rows, column_dtypes
from shards.template import Template


def row_faults(
    rows: Rows,
    vocab_size: int,
    special_ids: Mapping[str, int],
    capacity: int,
    masking: Masking | None,
    template: Template,
    cross_documents: bool = False,
) -> list[str]:
    """What is wrong with decoded rows, a line each; an empty list where all invariants of the format hold.

    `capacity` is the most tokens a row may have; `masking` what was asked for, None where the masking is dynamic.
    """
    faults = [
        f"{name} is {values.dtype}, must be {column_dtypes(vocab_size)[name]}"
        for name, _, values in rows.columns()
        if values.dtype != column_dtypes(vocab_size)[name]
    ]
    row_lengths = np.diff(rows.token_offsets)
    starts = rows.sequence_starts()
    if starts[-1] != len(rows.input_ids) or not np.array_equal(starts[rows.sequence_offsets], rows.token_offsets):
        return [*faults, "sequence_lengths do not sum to the length of input_ids in every row"]
    lengths, a_lengths = rows.sequence_lengths.astype(np.int64), rows.segment_a_lengths.astype(np.int64)
    if len(rows) and (row_lengths.min() == 0 or row_lengths.max() > capacity):
        faults.append(f"a row has {row_lengths.min()} or {row_lengths.max()} tokens, allowed are 1 to {capacity}")
    least = len(template.prefix) + (template.between_a if template.between else len(template.suffix))
    if len(lengths) and ((a_lengths < least) | (a_lengths > lengths)).any():
        return [*faults, f"segment_a_lengths has a value below {least} or above its sequence's length"]
    if len(rows.input_ids) and int(rows.input_ids.max()) >= vocab_size:
        return [*faults, f"input_ids holds {rows.input_ids.max()}, the vocabulary has {vocab_size} entries"]
    faults += _special_faults(rows.input_ids, starts, a_lengths, special_ids, template, cross_documents)
    label = rows.next_sentence_label
    if label is not None and len(label) and int(label.max()) > 1:
        faults.append(f"next_sentence_label holds {label.max()}, allowed are 0 and 1")
    if masking is None and rows.masked_positions is not None:
        faults.append("masked_positions is present although the masking is dynamic")
    if masking is not None:
        faults += _mask_faults(rows, vocab_size, special_ids, masking)
    return faults


def _special_faults(
    ids: Ints, starts: Offsets, a_lengths: Ints, special_ids: Mapping[str, int], template: Template, cross_documents: bool
) -> Iterator[str]:
    """Special tokens that are missing from their places, or stand at others."""
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


def _mask_faults(rows: Rows, vocab_size: int, special_ids: Mapping[str, int], masking: Masking) -> list[str]:
    if rows.masked_positions is None or rows.masked_labels is None or rows.masked_offsets is None:
        return ["masked_positions is absent although the masking is static"]
    row_lengths = np.repeat(np.diff(rows.token_offsets), np.diff(rows.masked_offsets))
    if (rows.masked_positions >= row_lengths).any():
        return ["masked_positions holds a position outside its row"]
    indices = rows.masked_indices()
    if (np.diff(indices) <= 0).any():
        return ["masked_positions is not strictly ascending in every row"]
    labels, faults = rows.masked_labels, []
    special = sorted(special_ids.values())
    if len(labels) and int(labels.max()) >= vocab_size:
        return [f"masked_labels holds {labels.max()}, the vocabulary has {vocab_size} entries"]
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

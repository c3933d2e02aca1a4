from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_of_ids import IDS, SPECIAL, VOCAB_SIZE, keys_of, make_rows, masking

from shards.checks import row_faults
from shards.gate.rows import Limits
from shards.mask_units import ENDS_WORD, STARTS_WORD
from shards.masking import Masking, mask_rows, unmask_rows
from shards.randomness import draw_below, draw_fraction
from shards.schema import MaskUnit, columns_sha256
from shards.template import Template

BERT = Template((2,), (3,), (3,), 1)


@given(st.lists(IDS, min_size=1, max_size=12), st.floats(0.01, 0.99), st.integers(0, 99))
@settings(deadline=None)
def test_masks_respect_their_number_and_places(sequences: list[list[int]], probability: float, seed: int) -> None:
    rows = make_rows(sequences, [1] * len(sequences))
    masked = mask_rows(rows, keys_of(rows, seed), masking(probability))
    counts = [max(1, round(probability * int(n))) for n in rows.sequence_lengths]
    assert row_faults(masked, Limits(VOCAB_SIZE), SPECIAL, masking(probability), BERT) == []
    assert masked.masked_offsets is not None
    ordinary = [sum(i > 4 for i in ids) for ids in sequences]
    assert np.diff(masked.masked_offsets).tolist() == [min(pair) for pair in zip(counts, ordinary, strict=True)]
    assert columns_sha256(unmask_rows(masked)) == columns_sha256(rows)


@given(st.lists(IDS, min_size=4, max_size=4), st.integers(0, 99))
@settings(deadline=None)
def test_masks_do_not_depend_on_the_packing(sequences: list[list[int]], seed: int) -> None:
    packed, single = make_rows(sequences, [3, 1]), make_rows(sequences, [1] * 4)
    a = mask_rows(packed, keys_of(packed, seed), masking())
    b = mask_rows(single, keys_of(single, seed), masking())
    assert np.array_equal(a.input_ids, b.input_ids)
    assert np.array_equal(a.masked_indices(), b.masked_indices())


def test_selected_tokens_become_mask_random_or_stay_at_the_published_rates() -> None:
    rng = np.random.default_rng(0)
    rows = make_rows([rng.integers(5, VOCAB_SIZE, 125).tolist() for _ in range(2000)], [4] * 500)
    masked = mask_rows(rows, keys_of(rows), masking())
    shown, original = masked.input_ids[masked.masked_indices()], masked.masked_labels
    total = len(shown)
    assert total == 2000 * 19  # round(0.15 * 128)
    is_mask, stayed = shown == SPECIAL["mask"], shown == original
    chance = 1 / (VOCAB_SIZE - 5)
    for share, expected in ((is_mask.mean(), 0.8), (stayed.mean(), 0.1 + 0.1 * chance)):
        assert abs(share - expected) < 3.3 * np.sqrt(expected * (1 - expected) / total)
    drawn = shown[~is_mask & ~stayed]
    assert drawn.min() >= 5 and len(np.unique(drawn)) > 490
    positions = masked.masked_indices() % 128
    assert abs(positions.mean() - rows_mean_position()) < 0.7


def rows_mean_position() -> float:
    """The mean position of an ordinary token in a sequence made of 125 of them: 63 in A, 62 in B."""
    return float(np.mean([*range(1, 64), *range(65, 127)]))


def test_ids_that_no_token_has_are_never_inserted() -> None:
    rng = np.random.default_rng(0)
    unused = (7, *range(100, 120), VOCAB_SIZE - 2)
    used = np.setdiff1d(np.arange(5, VOCAB_SIZE), unused)
    rows = make_rows([rng.choice(used, 125).tolist() for _ in range(500)], [4] * 125)
    rule = replace(masking(), special_ids=(*SPECIAL.values(), *unused), mask_share=0.0, random_share=1.0)
    masked = mask_rows(rows, keys_of(rows), rule)
    inserted = masked.input_ids[masked.masked_indices()]
    assert len(inserted) == 500 * 19 and np.array_equal(np.unique(inserted), used), "every other id is"


def test_rounding_is_half_to_even_and_never_zero() -> None:
    assert masking().counts(30)[[1, 3, 10, 30]].tolist() == [1, 1, 2, 4]


def test_a_pinned_row() -> None:
    rows = make_rows([list(range(100, 120)), list(range(200, 210))], [2])
    masked = mask_rows(rows, keys_of(rows), masking())
    assert masked.masked_positions is not None and masked.masked_labels is not None
    assert masked.masked_positions.tolist() == GOLDEN_POSITIONS
    assert masked.masked_labels.tolist() == GOLDEN_LABELS
    assert masked.input_ids[masked.masked_indices()].tolist() == GOLDEN_SHOWN


GOLDEN_POSITIONS = [3, 13, 15, 27, 28]
GOLDEN_LABELS = [102, 111, 113, 203, 204]
GOLDEN_SHOWN = [4, 4, 4, 4, 4]


# Words, n-grams and spans

FLAGS = np.where(np.arange(VOCAB_SIZE) % 2 == 0, STARTS_WORD, 0).astype(np.uint8)
FLAGS[np.arange(VOCAB_SIZE) % 50 == 7] = ENDS_WORD


def by_words(unit: MaskUnit, probability: float = 0.15) -> Masking:
    return replace(masking(probability), unit=unit, word_flags=FLAGS)


def words_of(ids: list[int]) -> list[list[int]]:
    """Places of each word, in plain Python: a word begins where a token says so, behind one that ends, or behind a special."""
    words: list[list[int]] = []
    for i, token in enumerate(ids):
        if token <= 4:
            continue
        begins = i == 0 or ids[i - 1] <= 4 or FLAGS[token] == STARTS_WORD or FLAGS[ids[i - 1]] == ENDS_WORD
        if begins:
            words.append([])
        words[-1].append(i)
    return words


@pytest.mark.parametrize("seed", range(8))
def test_a_word_never_reaches_over_a_separator(seed: int) -> None:
    """B may begin in the middle of a word, where its front was cut. In the published code it joins the last word of A."""
    begins, continues = int(np.flatnonzero(FLAGS == STARTS_WORD)[5]), int(np.flatnonzero(FLAGS == 0)[5])
    rows = make_rows([[begins, continues]], [1])  # [CLS] begins [SEP] ##continues [SEP]
    masked = mask_rows(rows, keys_of(rows, seed), by_words("word", 0.2))
    assert masked.masked_positions is not None and len(masked.masked_positions) == 1
    assert masked.masked_positions[0] in (1, 3)


WORD_UNITS: st.SearchStrategy[MaskUnit] = st.sampled_from(["word", "ngram", "span"])


@given(st.lists(IDS, min_size=1, max_size=8), st.floats(0.01, 0.5), st.integers(0, 99), WORD_UNITS)
@settings(deadline=None)
def test_words_are_never_half_selected(sequences: list[list[int]], probability: float, seed: int, unit: MaskUnit) -> None:
    rows = make_rows(sequences, [1] * len(sequences))
    rule = by_words(unit, probability)
    masked = mask_rows(rows, keys_of(rows, seed), rule)
    assert row_faults(masked, Limits(VOCAB_SIZE), SPECIAL, rule, BERT) == []
    assert columns_sha256(unmask_rows(masked)) == columns_sha256(rows)
    selected = set(masked.masked_indices().tolist())
    starts = rows.sequence_starts()
    for s, (start, stop) in enumerate(pairwise(starts.tolist())):
        words = words_of(rows.input_ids[start:stop].tolist())
        chosen = [word for word in words if start + word[0] in selected]
        assert all(start + i in selected for word in chosen for i in word), "whole"
        count = len(selected & set(range(start, stop)))
        assert count == sum(map(len, chosen)), "and nothing else"
        allowed = max(1, round(probability * int(rows.sequence_lengths[s])))
        assert count <= allowed + rule.slack
        if unit == "word" and count < allowed:
            left = [len(word) for word in words if start + word[0] not in selected]
            assert not left or min(left) > allowed - count, "what is left does not fit"


def ngrams_of(ids: list[int], key: np.uint64, count: int) -> tuple[set[int], list[int]]:
    """The places that n-grams select in one sequence, and the drawn lengths, in plain Python with the same draws."""
    words = words_of(ids)
    segments = [[*group] for group in groups_that_touch(words)]
    order = list(range(len(words)))
    selected: set[int] = set()
    lengths = []
    for j in range(len(words)):
        k = j + int(draw_below(key, j, len(words) - j))
        order[j], order[k] = order[k], order[j]
        u = draw_fraction(key, len(words) + j)
        lengths.append(1 + int(u >= 6 / 11) + int(u >= 9 / 11))
        (segment,) = (group for group in segments if words[order[j]] in group)
        first = segment.index(words[order[j]])
        candidates = [[i for word in segment[first : first + n] for i in word] for n in range(lengths[-1], 0, -1)]
        ngram = next((tokens for tokens in candidates if len(selected) + len(tokens) <= count), [])
        if not selected & set(ngram):
            selected |= set(ngram)
        if len(selected) == count:
            break
    return selected, lengths


def groups_that_touch(words: list[list[int]]) -> list[list[list[int]]]:
    groups: list[list[list[int]]] = []
    for word in words:
        if not groups or groups[-1][-1][-1] + 1 != word[0]:
            groups.append([])
        groups[-1].append(word)
    return groups


@given(st.lists(IDS, min_size=1, max_size=6), st.floats(0.01, 0.99), st.integers(0, 99))
@settings(deadline=None)
def test_ngrams_are_those_of_a_plain_reference(sequences: list[list[int]], probability: float, seed: int) -> None:
    rows = make_rows(sequences, [len(sequences)])
    keys = keys_of(rows, seed)
    masked = mask_rows(rows, keys, by_words("ngram", probability))
    expected = []
    for s, (start, stop) in enumerate(pairwise(rows.sequence_starts().tolist())):
        count = max(1, round(probability * (stop - start)))
        selected, _ = ngrams_of(rows.input_ids[start:stop].tolist(), keys[s], count)
        expected += [start + place for place in sorted(selected)]
    assert masked.masked_indices().tolist() == expected
    assert not np.isin(rows.input_ids[expected], list(SPECIAL.values())).any()


@pytest.mark.parametrize(("length", "words_per_run"), [(125, 1.72), (509, 1.76)])
def test_ngrams_have_the_lengths_and_the_rate_of_the_paper(length: int, words_per_run: float) -> None:
    rng = np.random.default_rng(2)
    count = 500_000 // length
    rows = make_rows([(2 * rng.integers(3, VOCAB_SIZE // 2, length)).tolist() for _ in range(count)], [1] * count)
    keys = keys_of(rows)
    masked = mask_rows(rows, keys, by_words("ngram"))  # every token is a word
    assert len(masked.masked_indices()) == count * round(0.15 * (length + 3)), "the rate is exact"
    ids = rows.input_ids[: length + 3].tolist()
    drawn = np.array([n for key in keys[:300] for n in ngrams_of(ids, key, round(0.15 * (length + 3)))[1]])
    for n, share in ((1, 6 / 11), (2, 3 / 11), (3, 2 / 11)):
        assert abs(np.mean(drawn == n) - share) < 3.3 * np.sqrt(share * (1 - share) / len(drawn))
    ends_run = np.diff(masked.masked_indices(), append=-1) != 1
    runs = np.diff(np.flatnonzero(ends_run), prepend=-1)
    assert abs(runs.mean() - words_per_run) < 0.02, runs.mean()
    shown = masked.input_ids[masked.masked_indices()] == SPECIAL["mask"]
    inside = ~ends_run[:-1]
    assert abs(np.mean(shown[1:][inside] == shown[:-1][inside]) - (0.8**2 + 0.2**2)) < 0.01, "each token by its own draw"


@pytest.mark.parametrize("length", [64, 125, 509])
def test_spans_have_their_published_lengths_and_the_rate_is_kept(length: int) -> None:
    rng = np.random.default_rng(1)
    count = 300_000 // length
    rows = make_rows([rng.integers(5, VOCAB_SIZE, length).tolist() for _ in range(count)], [1] * count)
    masked = mask_rows(rows, keys_of(rows), by_words("span"))
    selected = np.zeros(len(rows.input_ids), np.bool_)
    selected[masked.masked_indices()] = True
    lengths, tokens = [], []
    starts = rows.sequence_starts()
    for start, stop in pairwise(starts.tolist()):
        run = 0
        for word in [*words_of(rows.input_ids[start:stop].tolist()), [-1]]:
            if word != [-1] and selected[start + word[0]] and (run == 0 or selected[start + word[0] - 1]):
                run += 1
            elif run:
                lengths.append(run)
                run = 1 if word != [-1] and selected[start + word[0]] else 0
        tokens.append(selected[start:stop].sum())
    weights = 0.2 * 0.8 ** np.arange(10)
    mean = weights @ np.arange(1, 11) / weights.sum()
    assert abs(mean - 3.8) < 0.01
    assert abs(np.mean(lengths) - mean) < 4 * np.std(lengths) / np.sqrt(len(lengths)) + 0.02
    assert min(lengths) == 1 and max(lengths) == 10
    rate = np.sum(tokens) / len(rows.input_ids)
    assert abs(rate - 0.15) < 4 * np.std(tokens) / np.sqrt(count) / (length + 3) + 0.0005
    shown = masked.input_ids[masked.masked_indices()] == SPECIAL["mask"]
    runs = np.split(shown, np.flatnonzero(np.diff(masked.masked_indices()) > 1) + 1)
    assert all(run.all() or not run.any() for run in runs), "a span is replaced as one"


def test_the_shares_of_replacement_are_settable() -> None:
    rng = np.random.default_rng(0)
    rows = make_rows([rng.integers(5, VOCAB_SIZE, 125).tolist() for _ in range(1000)], [4] * 250)
    for mask_share, random_share in ((0.5, 0.3), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0)):
        rule = replace(masking(), mask_share=mask_share, random_share=random_share)
        masked = mask_rows(rows, keys_of(rows), rule)
        shown, original = masked.input_ids[masked.masked_indices()], masked.masked_labels
        found = (np.mean(shown == SPECIAL["mask"]), np.mean((shown != original) & (shown != SPECIAL["mask"])))
        for share, expected in zip(found, (mask_share, random_share), strict=True):
            assert abs(share - expected) < 3.3 * np.sqrt(0.25 / len(shown)) * (0 < expected < 1) + 0.004

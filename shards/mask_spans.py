"""Spans of whole words, selected for prediction as in SpanBERT, but never cut, and at the exact rate.

Span after span is drawn until their words reach a threshold. The published code cuts the last span where the budget ends; that
makes spans of short sequences shorter than drawn. Here the threshold itself is random. Its two values are chosen so that the
expected number of words is exactly that of the mask rate. No span is cut, so the mean length stays the drawn one (Wald's
identity).
"""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.compiled import compiled
from shards.mask_units import END, FIRST, Selection, Unmasked, find_runs, find_words, put_words
from shards.randomness import draw_below, draw_fraction

# Lengths are geometric with this p, cut off at a maximum and normalised: 3.8 words on average (Joshi et al. 2020,
# arXiv:1907.10529).
SPAN_P, MAX_SPAN_WORDS = 0.2, 10
# How many tokens a sequence's spans may have above its count, so that the last span needs no cut.
SPAN_SLACK = 24
# At how many places a span is tried before it is left out.
_ATTEMPTS = 64
# Draw of a sequence's stream that chooses the threshold. The spans take those after it.
_THRESHOLD = 0


def select_spans(rows: Unmasked) -> Selection:
    """Spans of whole words, of random lengths at random places, which neither touch nor cross a special token.

    Their words make up `probability` of the sequence's tokens on average, and at most SPAN_SLACK tokens above the count.
    """
    # The tables hold for shorter sequences too, so that a few sizes are enough.
    selection: Selection = _select_spans(rows, *_span_tables(1 << len(rows.counts).bit_length()))
    return selection


@compiled
def _select_spans(rows: Any, cumulative: Any, expected: Any) -> Any:
    selected = np.empty(len(rows.ids), np.int64)
    per_sequence, next_draws = np.zeros(len(rows.keys), np.int64), np.zeros(len(rows.keys), np.int64)
    places = np.empty((len(rows.counts), 2), np.int64)
    num_selected = 0
    for s in range(len(rows.keys)):
        words = find_words(rows, s, places)
        if len(words) == 0:
            continue
        length = rows.starts[s + 1] - rows.starts[s]
        tokens_of_words = (words[:, END] - words[:, FIRST]).sum()
        run_ends, longest_run = find_runs(words)
        k = min(longest_run, MAX_SPAN_WORDS) - 1
        threshold = _draw_threshold(rows.keys[s], rows.probability * length * len(words) / tokens_of_words, expected[k])
        most_tokens = rows.counts[length] + SPAN_SLACK
        is_selected, next_draws[s] = _draw_spans(rows.keys[s], words, run_ends, threshold, most_tokens, cumulative[k, : k + 1])
        per_sequence[s] = put_words(words, is_selected, selected[num_selected:])
        num_selected += per_sequence[s]
    return Selection(selected[:num_selected].copy(), per_sequence, next_draws)


@compiled
def _draw_threshold(key: Any, num_words: float, expected: Any) -> int:
    """One of the two thresholds around `num_words`, at random so that the spans have `num_words` words on average.

    Spans that are drawn until they reach a threshold of t words have `expected[t]` words on average.
    """
    lower = 0
    while lower + 2 < len(expected) and expected[lower + 1] <= num_words:
        lower += 1
    share_of_upper = (num_words - expected[lower]) / (expected[lower + 1] - expected[lower])
    return lower + 1 if draw_fraction(key, _THRESHOLD) < share_of_upper else lower


@compiled
def _draw_spans(key: Any, words: Any, run_ends: Any, threshold: int, most_tokens: int, cumulative: Any) -> tuple[Any, int]:
    """Which words are in the spans [W], and the index of the next draw. A span that finds no room is left out."""
    is_selected = np.zeros(len(words) + 1, np.bool_)  # one more, so that the word after a span exists
    index = _THRESHOLD + 1
    num_drawn = num_tokens = 0
    while num_drawn < threshold:
        length = _draw_length(key, index, cumulative)
        num_drawn += length
        index += 1
        for _ in range(_ATTEMPTS):
            first = draw_below(key, index, len(words))
            index += 1
            end = first + length
            if end > run_ends[first] or is_selected[max(0, first - 1) : end + 1].any():
                continue
            tokens_of_span = words[end - 1, END] - words[first, FIRST]
            if num_tokens + tokens_of_span <= most_tokens:
                is_selected[first:end] = True
                num_tokens += tokens_of_span
                break
    return is_selected[:-1], index


@compiled
def _draw_length(key: Any, index: int, cumulative: Any) -> int:
    drawn = draw_fraction(key, index)
    length = 1
    while length < len(cumulative) and drawn >= cumulative[length - 1]:
        length += 1
    return length


@lru_cache(maxsize=8)
def _span_tables(most: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """For spans of at most k + 1 words, k from 0: the cumulative probabilities of their lengths [k, MAX_SPAN_WORDS], and
    the mean number of words of spans that are drawn until they reach t words [k, most + 2].
    """
    cumulative = np.ones((MAX_SPAN_WORDS, MAX_SPAN_WORDS))
    expected = np.zeros((MAX_SPAN_WORDS, most + 2))
    for k in range(MAX_SPAN_WORDS):
        weights = SPAN_P * (1 - SPAN_P) ** np.arange(k + 1)
        probabilities = weights / weights.sum()
        cumulative[k, :k] = np.cumsum(probabilities)[:-1]
        mean = float(probabilities @ np.arange(1, k + 2))
        for t in range(1, most + 2):
            # The first span has i words with probabilities[i - 1]; the rest is drawn until it reaches t - i.
            after_first = expected[k, max(0, t - k - 1) : t][::-1]
            expected[k, t] = mean + float(probabilities[: len(after_first)] @ after_first)
    return cumulative, expected

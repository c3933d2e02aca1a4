"""What is selected for prediction: single tokens, whole words or spans of words.

Each `select_*` gets the ids of S sequences, `starts` [S + 1], the `keys` [S] of their streams, and `counts[n]`, the tokens to
select in a sequence of length n. It returns the selected places, ascending [M], their number in each sequence [S], and the
index of the first draw of each stream that was not used [S]. Word flags are of an id: STARTS_WORD and ENDS_WORD.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from shards.compiled import compiled
from shards.randomness import below, draw, fraction

UNITS = ("token", "word", "span")
STARTS_WORD, ENDS_WORD = 1, 2
SPAN_P, MAX_SPAN_WORDS = 0.2, 10
"""Span lengths are geometric, cut off and normalised: 3.8 words in the mean (Joshi et al. 2020, arXiv:1907.10529)."""
SPAN_SLACK = 24
"""Tokens that a sequence's spans may have beyond its count, so that the last one is not cut short."""
_ATTEMPTS = 64


@compiled
def select_tokens(ids: Any, starts: Any, keys: Any, counts: Any, is_special: Any) -> tuple[Any, Any, Any]:
    """As many ordinary tokens as the counts say, or all where there are fewer: the start of a Fisher-Yates shuffle."""
    selected = np.empty(len(ids), np.int64)
    per_sequence = np.empty(len(keys), np.int64)
    candidates = np.empty(len(counts), np.int64)
    filled = 0
    for s in range(len(keys)):
        num_candidates = 0
        for i in range(starts[s], starts[s + 1]):
            if not is_special[ids[i]]:
                candidates[num_candidates] = i
                num_candidates += 1
        count = min(counts[starts[s + 1] - starts[s]], num_candidates)
        for j in range(count):
            k = j + np.int64(below(draw(keys[s], np.uint64(j)), np.uint64(num_candidates - j)))
            candidates[j], candidates[k] = candidates[k], candidates[j]
        selected[filled : filled + count] = np.sort(candidates[:count])
        filled += count
        per_sequence[s] = count
    return selected[:filled].copy(), per_sequence, per_sequence


@compiled
def select_words(ids: Any, starts: Any, keys: Any, counts: Any, is_special: Any, flags: Any) -> tuple[Any, Any, Any]:
    """Whole words in random order, each that fits into what is left of the count, as in BERT's own code."""
    selected = np.empty(len(ids), np.int64)
    per_sequence, next_draws = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    words = np.empty((2, len(counts)), np.int64)
    filled = 0
    for s in range(len(keys)):
        num_words = find_words(ids, starts[s], starts[s + 1], is_special, flags, words)
        left = counts[starts[s + 1] - starts[s]]
        first_filled = filled
        for j in range(num_words):
            k = j + np.int64(below(draw(keys[s], np.uint64(j)), np.uint64(num_words - j)))
            for side in range(2):
                words[side, j], words[side, k] = words[side, k], words[side, j]
            if words[1, j] - words[0, j] <= left:
                for i in range(words[0, j], words[1, j]):
                    selected[filled] = i
                    filled += 1
                left -= words[1, j] - words[0, j]
            if left == 0:
                break
        selected[first_filled:filled] = np.sort(selected[first_filled:filled])
        per_sequence[s], next_draws[s] = filled - first_filled, num_words
    return selected[:filled].copy(), per_sequence, next_draws


def select_spans(
    ids: Any, starts: Any, keys: Any, counts: Any, is_special: Any, flags: Any, probability: float
) -> tuple[Any, Any, Any]:
    """Spans of whole words, of random lengths at random places, which neither touch nor cross a special token.

    Their words come to `probability` of the sequence's tokens in the mean, and to at most SPAN_SLACK tokens over the count.
    """
    cumulative, expected = _span_tables(len(counts))
    found: tuple[Any, Any, Any] = _select_spans(ids, starts, keys, counts, is_special, flags, probability, cumulative, expected)
    return found


@compiled
def _select_spans(
    ids: Any,
    starts: Any,
    keys: Any,
    counts: Any,
    is_special: Any,
    flags: Any,
    probability: float,
    cumulative: Any,
    expected: Any,
) -> tuple[Any, Any, Any]:
    selected = np.empty(len(ids), np.int64)
    per_sequence, next_draws = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    words = np.empty((2, len(counts)), np.int64)
    filled = 0
    for s in range(len(keys)):
        length = starts[s + 1] - starts[s]
        num_words = find_words(ids, starts[s], starts[s + 1], is_special, flags, words)
        ordinary = 0
        for word in range(num_words):
            ordinary += words[1, word] - words[0, word]
        wanted = probability * length * num_words / max(1, ordinary)
        chosen = selected[filled : filled + length]
        count, next_draws[s] = _spans_of(
            words, num_words, keys[s], wanted, counts[length] + SPAN_SLACK, cumulative, expected, chosen
        )
        chosen[:count] = np.sort(chosen[:count])
        filled += count
        per_sequence[s] = count
    return selected[:filled].copy(), per_sequence, next_draws


@compiled
def find_words(ids: Any, start: int, stop: int, is_special: Any, flags: Any, words: Any) -> int:
    """Writes the first and the end place of every word into `words` [2, tokens], and returns how many there are.

    Words that touch are of one run; a special token ends a word and the run.
    """
    num_words = 0
    open_word = False
    for i in range(start, stop):
        if is_special[ids[i]]:
            open_word = False
            continue
        if not open_word or flags[ids[i]] & STARTS_WORD or flags[ids[i - 1]] & ENDS_WORD:
            words[0, num_words] = i
            num_words += 1
        words[1, num_words - 1] = i + 1
        open_word = True
    return num_words


@compiled
def _spans_of(
    words: Any, num_words: int, key: Any, wanted: float, most: int, cumulative: Any, expected: Any, chosen: Any
) -> tuple[int, int]:
    """One sequence's spans, of `wanted` words in the mean and at most `most` tokens; returns their tokens and the next draw.

    Span after span is drawn until their words come to a threshold; `expected[k, t]` is the mean of what a threshold t ends
    with (`_span_tables`). Mixing the two thresholds around the wanted number of words gives it in the mean, and, because
    lengths are drawn until a stopping time and never cut, leaves their mean as it is drawn (Wald's identity). A span that
    finds no room at _ATTEMPTS places is left out.
    """
    run_ends, longest_run = _run_ends(words, num_words)
    if num_words == 0:
        return 0, 0
    k = min(longest_run, MAX_SPAN_WORDS) - 1
    threshold = 0
    while threshold + 2 < expected.shape[1] and expected[k, threshold + 1] <= wanted:
        threshold += 1
    step = expected[k, threshold + 1] - expected[k, threshold]
    if fraction(draw(key, np.uint64(0))) < (wanted - expected[k, threshold]) / step:
        threshold += 1
    taken = np.zeros(num_words + 1, np.bool_)
    index = 1
    filled = drawn = 0
    while drawn < threshold:
        drawn_at = fraction(draw(key, np.uint64(index)))
        length = 1
        while length <= k and drawn_at >= cumulative[k, length - 1]:
            length += 1
        index += 1
        drawn += length
        for _ in range(_ATTEMPTS):
            first = np.int64(below(draw(key, np.uint64(index)), np.uint64(num_words)))
            index += 1
            end = first + length
            free = end <= run_ends[first] and filled + words[1, end - 1] - words[0, first] <= most
            if free and not taken[max(0, first - 1) : end + 1].any():
                taken[first:end] = True
                for i in range(words[0, first], words[1, end - 1]):
                    chosen[filled] = i
                    filled += 1
                break
    return filled, index


@compiled
def _run_ends(words: Any, num_words: int) -> tuple[Any, int]:
    """For every word the number of the word behind its run; and the most words of a run."""
    run_ends = np.empty(num_words, np.int64)
    longest = end = 0
    for word in range(num_words - 1, -1, -1):
        if word == num_words - 1 or words[1, word] != words[0, word + 1]:
            end = word + 1
        run_ends[word] = end
        longest = max(longest, end - word)
    return run_ends, longest


def _span_tables(most: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """For spans of at most k + 1 words, k from 0: the cumulative probabilities of their lengths [k, MAX_SPAN_WORDS], and
    the mean number of words of spans that are drawn until they come to t words [k, most + 2].
    """
    cumulative = np.ones((MAX_SPAN_WORDS, MAX_SPAN_WORDS))
    expected = np.zeros((MAX_SPAN_WORDS, most + 2))
    for k in range(MAX_SPAN_WORDS):
        weights = SPAN_P * (1 - SPAN_P) ** np.arange(k + 1)
        probabilities = weights / weights.sum()
        cumulative[k, :k] = np.cumsum(probabilities)[:-1]
        mean = float(probabilities @ np.arange(1, k + 2))
        for t in range(1, most + 2):
            behind = expected[k, max(0, t - k - 1) : t][::-1]
            expected[k, t] = mean + float(probabilities[: len(behind)] @ behind)
    return cumulative, expected

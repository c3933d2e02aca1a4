"""What is selected for prediction: single tokens, whole words, n-grams of words, or spans of words (`mask_spans`).

Each `select_*` gets `Unmasked` sequences and returns a `Selection`. Draws are addressed: a sequence's stream gives the draws of
its selection first, and the replacements take those after them.
"""

from typing import Any, NamedTuple

import numpy as np

from shards.compiled import compiled
from shards.randomness import draw_below, draw_fraction

# Word flags of an id.
STARTS_WORD, ENDS_WORD = 1, 2
# Columns of `words`, of which there is a row per word: its first place, and the place after its last.
FIRST, END = 0, 1
MAX_NGRAM_WORDS = 3
# Cumulative p(n) of n-grams of fewer than MAX_NGRAM_WORDS words, for p(n) ~ 1/n: 6/11, 3/11 and 2/11.
_NGRAM_CUMULATIVE = (6 / 11, 9 / 11)


class Unmasked(NamedTuple):
    """S sequences of T tokens to select from, and how much to select. Fields are arrays; a place is an index of `ids`."""

    ids: Any  # uint16 or uint32 [T]
    starts: Any  # int64 [S + 1]: sequence s is ids[starts[s]:starts[s + 1]]
    keys: Any  # uint64 [S]: the stream of each sequence
    counts: Any  # int64 [longest + 1]: tokens to select in a sequence of n tokens
    probability: Any  # float: share of tokens to select; only spans use it
    is_special: Any  # bool [vocab_size]
    word_flags: Any  # uint8 [vocab_size]; empty if single tokens are selected


class Selection(NamedTuple):
    """M selected places, ascending."""

    places: Any  # int64 [M]
    per_sequence: Any  # int64 [S]
    next_draws: Any  # int64 [S]: index of the first draw of each stream that is not used


@compiled
def select_tokens(rows: Any) -> Any:
    """`counts[n]` ordinary tokens, or all if there are fewer: the start of a Fisher-Yates shuffle."""
    most = 0
    for s in range(len(rows.keys)):
        most += rows.counts[rows.starts[s + 1] - rows.starts[s]]
    selected = np.empty(most, np.int64)
    per_sequence = np.empty(len(rows.keys), np.int64)
    candidates, is_selected = np.empty(len(rows.counts), np.int64), np.zeros(len(rows.counts), np.bool_)
    num_selected = 0
    for s in range(len(rows.keys)):
        start, stop = rows.starts[s], rows.starts[s + 1]
        num_candidates = 0
        for i in range(start, stop):
            if not rows.is_special[rows.ids[i]]:
                candidates[num_candidates] = i
                num_candidates += 1
        count = min(rows.counts[stop - start], num_candidates)
        for j in range(count):
            is_selected[draw_item(candidates[:num_candidates], rows.keys[s], j) - start] = True
        for i in range(start, stop):  # in ascending order, which takes less time than to sort them
            if is_selected[i - start]:
                selected[num_selected] = i
                num_selected += 1
                is_selected[i - start] = False
        per_sequence[s] = count
    return Selection(selected[:num_selected], per_sequence, per_sequence)


@compiled
def select_words(rows: Any) -> Any:
    """Whole words in random order, each if it fits into the rest of the count, as in BERT's own code."""
    selected = np.empty(len(rows.ids), np.int64)
    per_sequence, next_draws = np.empty(len(rows.keys), np.int64), np.empty(len(rows.keys), np.int64)
    places = np.empty((len(rows.counts), 2), np.int64)
    num_selected = 0
    for s in range(len(rows.keys)):
        words = find_words(rows, s, places)
        order, is_selected = np.arange(len(words)), np.zeros(len(words), np.bool_)
        left = rows.counts[rows.starts[s + 1] - rows.starts[s]]
        for j in range(len(words)):
            word = draw_item(order, rows.keys[s], j)
            num_tokens = words[word, END] - words[word, FIRST]
            if num_tokens <= left:
                is_selected[word] = True
                left -= num_tokens
            if left == 0:
                break
        per_sequence[s] = put_words(words, is_selected, selected[num_selected:])
        num_selected += per_sequence[s]
        next_draws[s] = len(words)
    return Selection(selected[:num_selected].copy(), per_sequence, next_draws)


@compiled
def select_ngrams(rows: Any) -> Any:
    """N-grams of 1 to 3 whole words, p(n) ~ 1/n (Lan et al. 2020, arXiv:1909.11942, section 4.1), as in ALBERT's own code.

    Every word is tried as a first word, in random order, until the count is reached. An n-gram loses its last words if it
    exceeds the rest of the count. It is left out if it overlaps another one; it may touch one. Unlike in ALBERT's code, no
    n-gram crosses a special token.
    """
    selected = np.empty(len(rows.ids), np.int64)
    per_sequence, next_draws = np.empty(len(rows.keys), np.int64), np.empty(len(rows.keys), np.int64)
    places = np.empty((len(rows.counts), 2), np.int64)
    num_selected = 0
    for s in range(len(rows.keys)):
        words = find_words(rows, s, places)
        run_ends, _ = find_runs(words)
        order, is_selected = np.arange(len(words)), np.zeros(len(words), np.bool_)
        left = rows.counts[rows.starts[s + 1] - rows.starts[s]]
        for j in range(len(words)):
            first = draw_item(order, rows.keys[s], j)
            end = min(first + _draw_ngram_length(rows.keys[s], len(words) + j), run_ends[first])
            while end > first and words[end - 1, END] - words[first, FIRST] > left:
                end -= 1
            if end > first and not is_selected[first:end].any():
                is_selected[first:end] = True
                left -= words[end - 1, END] - words[first, FIRST]
            if left == 0:
                break
        per_sequence[s] = put_words(words, is_selected, selected[num_selected:])
        num_selected += per_sequence[s]
        next_draws[s] = 2 * len(words)
    return Selection(selected[:num_selected].copy(), per_sequence, next_draws)


@compiled
def draw_item(items: Any, key: Any, j: int) -> Any:
    """Step j of a Fisher-Yates shuffle: moves a random one of items[j:] to items[j], and returns it. Uses draw j."""
    k = j + draw_below(key, j, len(items) - j)
    items[j], items[k] = items[k], items[j]
    return items[j]


@compiled
def _draw_ngram_length(key: Any, index: int) -> int:
    drawn = draw_fraction(key, index)
    length = 1
    while length < MAX_NGRAM_WORDS and drawn >= _NGRAM_CUMULATIVE[length - 1]:
        length += 1
    return length


@compiled
def find_words(rows: Any, s: int, places: Any) -> Any:
    """The words of sequence s, in order: [W, 2], a view of `places`, which needs a row per token.

    A special token is part of no word, and ends the word before it.
    """
    num_words = 0
    is_inside = False
    for i in range(rows.starts[s], rows.starts[s + 1]):
        if rows.is_special[rows.ids[i]]:
            is_inside = False
            continue
        flags = rows.word_flags
        if not is_inside or flags[rows.ids[i]] & STARTS_WORD or flags[rows.ids[i - 1]] & ENDS_WORD:
            places[num_words, FIRST] = i
            num_words += 1
        places[num_words - 1, END] = i + 1
        is_inside = True
    return places[:num_words]


@compiled
def find_runs(words: Any) -> tuple[Any, int]:
    """Runs of words that touch: the number of the word after each word's run [W], and the most words of a run."""
    run_ends = np.empty(len(words), np.int64)
    longest = end = 0
    for word in range(len(words) - 1, -1, -1):
        if word == len(words) - 1 or words[word, END] != words[word + 1, FIRST]:
            end = word + 1
        run_ends[word] = end
        longest = max(longest, end - word)
    return run_ends, longest


@compiled
def put_words(words: Any, is_selected: Any, selected: Any) -> int:
    """Writes the places of the selected words' tokens to the start of `selected`, and returns how many there are."""
    num_tokens = 0
    for word in range(len(words)):
        if is_selected[word]:
            for i in range(words[word, FIRST], words[word, END]):
                selected[num_tokens] = i
                num_tokens += 1
    return num_tokens

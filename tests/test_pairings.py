"""Sentence order, paragraphs and full sentences against plain-Python versions of their recipes, draw by draw."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pairing_corpora import (
    Corpus,
    corpora,
    docs_of,
    flat_ids,
    flatten,
    key_below,
    offsets,
    random_corpus,
    random_fraction,
    random_integer,
    short_seq_probs,
)
from tokenizers import Tokenizer, models, pre_tokenizers

from prep.pairing.full_sentences import fill_sentences
from prep.pairing.paragraph import pair_paragraphs
from prep.pairing.sequences import Sequences
from prep.pairing.sop import pair_sentence_order
from prep.pairing.truncation import truncate, truncate_longest
from prep.tally import Tally

SEPARATOR = 99
max_tokens_values = st.integers(5, 40)
Pair = tuple[list[int], list[int], int, int]


def pairs_of(sequences: Sequences, ids: list[int]) -> list[Pair]:
    assert sequences.labels is not None
    columns = zip(*(column.tolist() for column in sequences if column is not None), strict=True)
    return [(ids[a : a + m], ids[b : b + n], label, key) for a, m, b, n, label, _, key in columns]


def target_of(corpus: Corpus, number: int, max_tokens: int, short_seq_prob: float) -> int:
    key = corpus.keys[number]
    return random_integer(key, 1, 2, max_tokens) if random_fraction(key, 0) < short_seq_prob else max_tokens


# Sentence order


def reference_order(corpus: Corpus, max_tokens: int, short_seq_prob: float) -> tuple[list[Pair], list[int]]:
    """ALBERT's pairs: the chunks of BERT, cut in two, swapped with probability 1/2; and tokens placed, truncated, unpaired."""
    made: list[Pair] = []
    placed = truncated = unpaired = 0
    for number in corpus.order:
        document = corpus.documents[number]
        target = target_of(corpus, number, max_tokens, short_seq_prob)
        chunk: list[list[int]] = []
        count = 2
        for i, sentence in enumerate(document):
            chunk.append(sentence)
            if i < len(document) - 1 and sum(map(len, chunk)) < target:
                continue
            if len(chunk) == 1:
                unpaired += len(chunk[0])
            else:
                key = key_below(corpus.keys[number], count)
                end = random_integer(key, 0, 1, len(chunk) - 1)
                a, b, label = flatten(chunk[:end]), flatten(chunk[end:]), 0
                if a != b and random_fraction(key, 1) < 0.5:
                    a, b, label = b, a, 1
                a_front, a_length, b_front, b_length = truncate(np.uint64(key), 2, len(a), len(b), max_tokens)
                made.append((a[a_front : a_front + a_length], b[b_front : b_front + b_length], label, key))
                placed += a_length + b_length
                truncated += len(a) + len(b) - a_length - b_length
            chunk, count = [], count + 1
    return made, [placed, truncated, unpaired]


@settings(deadline=None, max_examples=100)
@given(corpora(), max_tokens_values, short_seq_probs)
def test_sentence_order_equals_the_reference(corpus: Corpus, max_tokens: int, short_seq_prob: float) -> None:
    sequences, tally = pair_sentence_order(docs_of(corpus), max_tokens, short_seq_prob)
    expected, counts = reference_order(corpus, max_tokens, short_seq_prob)
    assert pairs_of(sequences, flat_ids(corpus)) == expected
    assert [tally.placed, tally.truncated, tally.unpaired] == counts and tally.made == sum(counts)
    assert tally.negatives == tally.redrawn == 0


def test_half_of_the_segments_are_swapped() -> None:
    corpus = random_corpus(1500, seed=5)
    sequences, _ = pair_sentence_order(docs_of(corpus), 125, 0.1)
    assert sequences.labels is not None and len(sequences.labels) > 5_000
    assert abs(sequences.labels.mean() - 0.5) < 3.3 * 0.5 / np.sqrt(len(sequences.labels))


# Paragraphs


def reference_paragraphs(corpus: Corpus) -> tuple[list[Pair], int]:
    """The notebooks' loop, with B drawn again while it is the true next sentence; and the tokens used of A and true Bs."""
    bag = [sentence for document in corpus.documents for sentence in document]
    first_of = offsets([len(document) for document in corpus.documents])
    made: list[Pair] = []
    used = 0
    for number in corpus.order:
        sentences = corpus.documents[number]
        if len(sentences) < 2:
            continue
        key = key_below(corpus.keys[number], 2)
        start = random_integer(key, 0, 0, len(sentences) - 2)
        b, label = sentences[start + 1], 0
        if random_fraction(key, 1) < 0.5:
            drawn = [random_integer(key, 2 + attempt, 0, len(bag) - 1) for attempt in range(10)]
            others = [bag[i] for i in drawn if i != first_of[number] + start and bag[i] != sentences[start + 1]]
            if not others:
                continue
            b, label = others[0], 1
        made.append((sentences[start], b, label, key))
        used += len(sentences[start]) + (len(b) if label == 0 else 0)
    return made, used


@settings(deadline=None, max_examples=100)
@given(corpora())
def test_paragraphs_equal_the_reference(corpus: Corpus) -> None:
    sequences, tally = pair_paragraphs(docs_of(corpus), 1000)
    expected, used = reference_paragraphs(corpus)
    assert pairs_of(sequences, flat_ids(corpus)) == expected
    assert tally.placed == used and tally.truncated == 0 and tally.made == used + tally.unpaired


@settings(deadline=None)
@given(corpora(), max_tokens_values)
def test_long_pairs_of_sentences_are_cut_at_their_ends(corpus: Corpus, max_tokens: int) -> None:
    whole, _ = pair_paragraphs(docs_of(corpus), 10_000)
    cut, tally = pair_paragraphs(docs_of(corpus), max_tokens)
    ids = flat_ids(corpus)
    for (a, b, *_), (full_a, full_b, *_) in zip(pairs_of(cut, ids), pairs_of(whole, ids), strict=True):
        assert a == full_a[: len(a)] and b == full_b[: len(b)]
        assert len(a) + len(b) == min(max_tokens, len(full_a) + len(full_b))
    assert tally.made == tally.placed + tally.truncated + tally.unpaired


@given(st.integers(1, 60), st.integers(1, 60), st.integers(4, 60))
@settings(deadline=None)
def test_the_cut_is_that_of_tokenizers(a: int, b: int, most: int) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(most, strategy="longest_first")
    ids = tokenizer.encode("a " * a, "b " * b).ids
    assert truncate_longest(a, b, most) == (ids.count(0), ids.count(1))


# Full sentences


def fill(corpus: Corpus, max_tokens: int, short: float, separator: int | None) -> tuple[list[list[int]], list[int], Tally]:
    ids, sequences, tally = fill_sentences(docs_of(corpus), max_tokens, short, separator)
    assert sequences.labels is None and not sequences.b_lengths.any()
    places = zip(sequences.a_starts.tolist(), sequences.a_lengths.tolist(), strict=True)
    return [ids[start : start + length].tolist() for start, length in places], sequences.keys.tolist(), tally


def reference_fill(corpus: Corpus, max_tokens: int, short: float, cross: bool) -> list[list[int]]:
    """Greedy, on lists: sentences while they fit, then a new sequence."""
    made: list[list[int]] = []
    current: list[int] = []
    target = 0
    for number in corpus.order:
        own_target = target_of(corpus, number, max_tokens, short)
        for i, sentence in enumerate(corpus.documents[number]):
            gap = [SEPARATOR] if i == 0 else []
            if current and (cross or i) and len(current) + len(gap) + len(sentence) <= target:
                current += gap + sentence
                continue
            made += [current] if current else []
            left = list(sentence)
            while len(left) > max_tokens:
                made.append(left[:max_tokens])
                left = left[max_tokens:]
            current, target = left, own_target
    return [*made, current] if current else made


@settings(deadline=None, max_examples=150)
@given(corpora(), max_tokens_values, short_seq_probs, st.booleans())
def test_full_sentences_equal_the_reference(corpus: Corpus, max_tokens: int, short: float, cross: bool) -> None:
    found, keys, tally = fill(corpus, max_tokens, short, SEPARATOR if cross else None)
    assert found == reference_fill(corpus, max_tokens, short, cross)
    assert len(set(keys)) == len(keys), "each sequence has a stream of its own"
    everything = [token for number in corpus.order for token in flatten(corpus.documents[number])]
    assert [token for sequence in found for token in sequence if token != SEPARATOR] == everything, "nothing is lost"
    assert max(map(len, found)) <= max_tokens
    assert tally.made == tally.placed == len(everything)
    assert tally.separators == sum(sequence.count(SEPARATOR) for sequence in found)
    assert not any(SEPARATOR in (sequence[0], sequence[-1]) for sequence in found)


def test_documents_are_crossed_only_when_asked() -> None:
    corpus = random_corpus(300, seed=2)
    apart, _, _ = fill(corpus, 125, 0.0, None)
    crossed, _, tally = fill(corpus, 125, 0.0, SEPARATOR)
    assert tally.separators > 100 and len(crossed) < len(apart)
    lengths = [len(sequence) for sequence in crossed[:-1]]
    assert min(lengths) > 125 - 41, "only a sentence that does not fit ends a sequence"

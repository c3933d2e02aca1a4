import random
from bisect import bisect_right
from itertools import pairwise
from math import sqrt
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pairing_corpora import (
    Corpus,
    Document,
    corpora,
    docs_of,
    document_offsets,
    flat_ids,
    flatten,
    key_below,
    make_corpus,
    max_seq_lens,
    random_bits,
    random_corpus,
    random_fraction,
    random_integer,
    sentence_offsets,
    short_seq_probs,
    single_token_corpus,
)

from prep.pairing.nsp import pair_next_sentence
from prep.pairing.sequences import Sequences
from prep.tally import Tally

IS_NEXT, NOT_NEXT = 0, 1
ATTEMPTS = 10
Z_99_9 = 3.2905  # a normal variable lies within as many deviations of its mean with probability 99.9 %


class Instance(NamedTuple):
    a: list[int]
    b: list[int]
    label: int
    forced: bool
    key: int


# The reference: BERT's create_instances_from_document on lists of lists of tokens, with addressed draws of plain integers.


def truncate_in_place(tokens_a: list[int], tokens_b: list[int], max_num_tokens: int, key: int) -> tuple[list[int], int]:
    """Returns what A lost at its back, and how many tokens B lost at its front."""
    index = 2
    cut_behind_a: list[int] = []
    cut_before_b = 0
    while len(tokens_a) + len(tokens_b) > max_num_tokens:
        longer = tokens_a if len(tokens_a) > len(tokens_b) else tokens_b
        if random_fraction(key, index) < 0.5:
            del longer[0]
            cut_before_b += longer is tokens_b
        else:
            token = longer.pop()
            if longer is tokens_a:
                cut_behind_a.insert(0, token)
        index += 1
    return cut_behind_a, cut_before_b


def begins_alike(tokens: list[int], others: list[int]) -> bool:
    shared = min(len(tokens), len(others))
    return shared > 0 and tokens[:shared] == others[:shared]


def random_segment(document: Document, target_length: int, key: int) -> list[int]:
    tokens: list[int] = []
    for sentence in document[random_integer(key, 1, 0, len(document) - 1) :]:
        tokens.extend(sentence)
        if len(tokens) >= target_length:
            break
    return tokens


def reference_pairs(corpus: Corpus, max_seq_len: int, short_seq_prob: float) -> tuple[list[Instance], Tally]:
    max_num_tokens = max_seq_len - 3
    instances = []
    made = placed = truncated = unpaired = negatives = redrawn = dropped = 0
    for number in corpus.order:
        document, document_key = corpus.documents[number], corpus.keys[number]
        made += len(flatten(document))
        target_length = max_num_tokens
        if random_fraction(document_key, 0) < short_seq_prob:
            target_length = random_integer(document_key, 1, 2, max_num_tokens)
        chunk: list[list[int]] = []
        chunk_number = 2
        i = 0
        while i < len(document):
            chunk.append(document[i])
            if i < len(document) - 1 and len(flatten(chunk)) < target_length:
                i += 1
                continue
            key = key_below(document_key, chunk_number)
            forced = len(chunk) == 1
            a_end = 1 if forced else random_integer(key, 0, 1, len(chunk) - 1)
            full_a = flatten(chunk[:a_end])
            if forced or random_fraction(key, 1) < 0.5:
                i -= len(chunk) - a_end
                continuation = flatten(document[i + 1 :])
                for attempt in range(ATTEMPTS):
                    attempt_key = key_below(key, attempt)
                    other = corpus.order[random_integer(attempt_key, 0, 0, len(corpus.order) - 1)]
                    if corpus.hashes[other] == corpus.hashes[number]:
                        redrawn += 1
                        continue
                    a = list(full_a)
                    b = random_segment(corpus.documents[other], target_length - len(full_a), attempt_key)
                    cut_behind_a, cut_before_b = truncate_in_place(a, b, max_num_tokens, attempt_key)
                    # B must go on neither from where the shortened A ends nor from where the whole A did.
                    if begins_alike(b, cut_behind_a + continuation) or begins_alike(b, continuation[cut_before_b:]):
                        redrawn += 1
                        continue
                    instances.append(Instance(a, b, NOT_NEXT, forced, key))
                    placed += len(a)
                    truncated += len(full_a) - len(a)
                    negatives += len(b)
                    break
                else:
                    unpaired += len(full_a)
                    dropped += 1
            else:
                a, b = list(full_a), flatten(chunk[a_end:])
                truncate_in_place(a, b, max_num_tokens, key)
                instances.append(Instance(a, b, IS_NEXT, forced, key))
                placed += len(a) + len(b)
                truncated += len(flatten(chunk)) - len(a) - len(b)
            chunk = []
            chunk_number += 1
            i += 1
    return instances, Tally(made, placed, truncated, unpaired, negatives, redrawn, dropped)


# What is tested, on the same input.


def compiled_pairs(corpus: Corpus, max_seq_len: int, short_seq_prob: float) -> tuple[Sequences, Tally]:
    return pair_next_sentence(docs_of(corpus), max_seq_len - 3, short_seq_prob)


def instances_of(sequences: Sequences, corpus: Corpus) -> list[Instance]:
    ids = flat_ids(corpus)
    return [
        Instance(ids[a : a + a_length], ids[b : b + b_length], label, forced, key)
        for a, a_length, b, b_length, label, forced, key in zip(*(column.tolist() for column in sequences), strict=True)
    ]


def test_random_bits_are_those_of_splitmix64() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert [random_bits(1234567, index) for index in range(5)] == published


@settings(deadline=None, max_examples=150)
@given(corpora(), max_seq_lens, short_seq_probs)
def test_pairs_equal_the_reference(corpus: Corpus, max_seq_len: int, short_seq_prob: float) -> None:
    sequences, tally = compiled_pairs(corpus, max_seq_len, short_seq_prob)
    expected_instances, expected_tally = reference_pairs(corpus, max_seq_len, short_seq_prob)
    assert instances_of(sequences, corpus) == expected_instances
    assert tally == expected_tally


def test_pairs_of_many_documents_equal_the_reference() -> None:
    corpus = random_corpus(num_documents=300, seed=5)
    sequences, tally = compiled_pairs(corpus, 128, 0.1)
    expected_instances, expected_tally = reference_pairs(corpus, 128, 0.1)
    assert len(expected_instances) > 1000
    assert instances_of(sequences, corpus) == expected_instances
    assert tally == expected_tally


@settings(deadline=None, max_examples=150)
@given(corpora(), max_seq_lens, short_seq_probs)
def test_segments_lie_where_their_labels_say(corpus: Corpus, max_seq_len: int, short_seq_prob: float) -> None:
    sequences, _ = compiled_pairs(corpus, max_seq_len, short_seq_prob)
    ids, starts = flat_ids(corpus), document_offsets(corpus)
    for a, a_length, b, b_length, label, forced, _ in zip(*(column.tolist() for column in sequences), strict=True):
        assert a_length >= 1
        assert b_length >= 1
        assert a_length + b_length <= max_seq_len - 3
        a_document, b_document = bisect_right(starts, a) - 1, bisect_right(starts, b) - 1
        assert a + a_length <= starts[a_document + 1]
        assert b + b_length <= starts[b_document + 1]
        assert {a_document, b_document} <= set(corpus.order)
        if label == IS_NEXT:
            assert a_document == b_document
            assert a + a_length <= b
            assert not forced
        else:
            assert corpus.hashes[a_document] != corpus.hashes[b_document]
            document_behind_a = ids[a + a_length : starts[a_document + 1]]
            assert ids[b : b + b_length] != document_behind_a[:b_length]


@settings(deadline=None, max_examples=150)
@given(corpora(), max_seq_lens, short_seq_probs)
def test_no_sentence_is_used_twice_by_its_own_document(corpus: Corpus, max_seq_len: int, short_seq_prob: float) -> None:
    sequences, _ = compiled_pairs(corpus, max_seq_len, short_seq_prob)
    document_starts, sentence_starts = document_offsets(corpus), sentence_offsets(corpus)
    own_segments = []
    for a, a_length, b, b_length, label, _, _ in zip(*(column.tolist() for column in sequences), strict=True):
        own_segments.append((a, a + a_length))
        if label == IS_NEXT:
            own_segments.append((b, b + b_length))
    own_sentences = []  # whole ones: a segment had all of them before it was truncated
    for start, stop in own_segments:
        place = corpus.order.index(bisect_right(document_starts, start) - 1)
        own_sentences.append((place, bisect_right(sentence_starts, start) - 1, bisect_right(sentence_starts, stop - 1)))
    for (place, _, stop), (next_place, next_start, _) in pairwise(own_sentences):
        assert place < next_place or (place == next_place and stop <= next_start)
    assert len(set(sequences.keys.tolist())) == len(sequences.keys)


@settings(deadline=None, max_examples=150)
@given(corpora(), max_seq_lens, short_seq_probs)
def test_the_tally_accounts_for_every_token(corpus: Corpus, max_seq_len: int, short_seq_prob: float) -> None:
    sequences, tally = compiled_pairs(corpus, max_seq_len, short_seq_prob)
    is_next = sequences.labels == IS_NEXT
    assert tally.made == sum(len(flatten(corpus.documents[number])) for number in corpus.order)
    assert tally.made == tally.placed + tally.truncated + tally.unpaired
    assert min(tally) >= 0
    assert tally.placed == sequences.a_lengths.sum() + sequences.b_lengths[is_next].sum()
    assert tally.negatives == sequences.b_lengths[~is_next].sum()
    assert tally.redrawn >= ATTEMPTS * tally.dropped
    assert tally.unpaired >= tally.dropped
    assert (sequences.lengths(3) == sequences.a_lengths + sequences.b_lengths + 3).all()


def select(corpus: Corpus, layout: list[int], order: list[int]) -> Corpus:
    """Only the documents of `layout`, in that place in memory; `order` names them as in `corpus`."""
    return Corpus(
        [corpus.documents[number] for number in layout],
        [corpus.hashes[number] for number in layout],
        [corpus.keys[number] for number in layout],
        [layout.index(number) for number in order],
    )


def assert_same_pairs(corpus: Corpus, other: Corpus, max_seq_len: int, short_seq_prob: float) -> None:
    sequences, tally = compiled_pairs(corpus, max_seq_len, short_seq_prob)
    other_sequences, other_tally = compiled_pairs(other, max_seq_len, short_seq_prob)
    assert instances_of(other_sequences, other) == instances_of(sequences, corpus)
    assert other_tally == tally


@settings(deadline=None, max_examples=100)
@given(corpora(), max_seq_lens, short_seq_probs, st.randoms(use_true_random=False))
def test_pairs_depend_on_the_order_but_not_on_places_in_memory(
    corpus: Corpus, max_seq_len: int, short_seq_prob: float, rng: random.Random
) -> None:
    layout = list(range(len(corpus.documents)))
    rng.shuffle(layout)
    assert_same_pairs(corpus, select(corpus, layout, corpus.order), max_seq_len, short_seq_prob)


def test_documents_outside_the_order_play_no_part() -> None:
    corpus = random_corpus(num_documents=60, seed=9)
    used = corpus.order[:40]
    assert_same_pairs(corpus._replace(order=used), select(corpus, sorted(used), used), 64, 0.1)


def assert_plausible(count: int, trials: int, probability: float) -> None:
    """Whether a binomial count lies in its 99.9 % interval."""
    deviation = sqrt(trials * probability * (1 - probability))
    assert abs(count - trials * probability) <= Z_99_9 * deviation


def test_half_of_the_unforced_pairs_are_not_next() -> None:
    corpus = single_token_corpus(num_documents=2000, num_sentences=200)
    sequences, tally = compiled_pairs(corpus, 16, 0.1)
    labels = sequences.labels[~sequences.forced]
    assert tally.dropped == 0
    assert len(labels) > 30_000
    assert_plausible(int(labels.sum()), len(labels), 0.5)


def test_segment_a_ends_anywhere_in_its_chunk() -> None:
    corpus = single_token_corpus(num_documents=2000, num_sentences=13)
    sequences, _ = compiled_pairs(corpus, 16, 0.0)
    of_first_chunks = np.isin(sequences.a_starts, document_offsets(corpus))
    a_lengths = sequences.a_lengths[of_first_chunks]
    assert len(a_lengths) == 2000
    for a_end in range(1, 13):
        assert_plausible(int((a_lengths == a_end).sum()), 2000, 1 / 12)
    assert set(a_lengths.tolist()) == set(range(1, 13))


def test_short_targets_are_drawn_once_a_document() -> None:
    num_documents, num_sentences = 2000, 200
    corpus = single_token_corpus(num_documents, num_sentences)
    sequences, _ = compiled_pairs(corpus, 16, 0.1)
    a_documents, a_places = np.divmod(sequences.a_starts, num_sentences)
    lengths = sequences.a_lengths + sequences.b_lengths
    full_chunks = (sequences.labels == IS_NEXT) & (a_places + lengths < num_sentences)
    target_lengths: list[set[int]] = [set() for _ in range(num_documents)]
    for document, length in zip(a_documents[full_chunks].tolist(), lengths[full_chunks].tolist(), strict=True):
        target_lengths[document].add(length)
    assert all(len(of_document) == 1 for of_document in target_lengths)
    short = [length for (length,) in target_lengths if length < 13]
    assert_plausible(len(short), num_documents, 0.1 * 11 / 12)  # the longest "short" target, of 12, is the full one
    assert set(short) == set(range(2, 13))


@pytest.mark.parametrize("num_copies", [1, 7])
def test_documents_of_one_content_make_no_random_pairs(num_copies: int) -> None:
    document = [[number, number] for number in range(100)]
    sequences, tally = compiled_pairs(make_corpus([document] * num_copies, seed=3), 16, 0.1)
    assert len(sequences.labels) > 0
    assert (sequences.labels == IS_NEXT).all()
    assert not sequences.forced.any()
    assert tally.dropped > 0
    assert tally.redrawn == ATTEMPTS * tally.dropped
    assert tally.negatives == 0


def test_forced_pairs_are_dropped_where_no_other_content_exists() -> None:
    sequences, tally = compiled_pairs(make_corpus([[[1, 2, 3]]] * 5, seed=3), 16, 0.1)
    assert len(sequences.labels) == 0
    assert tally == Tally(made=15, placed=0, truncated=0, unpaired=15, negatives=0, redrawn=50, dropped=5)


def test_random_segments_never_go_on_from_the_whole_segment_a() -> None:
    documents = [[[1, 1, 1, 1, 1], [2, 2, 2]], [[2, 2, 2]]]
    for seed in range(50):
        sequences, tally = compiled_pairs(make_corpus(documents, seed), 8, 0.0)
        assert (sequences.a_starts >= 5).all()  # the first sentence stays unpaired, however it would be truncated
        assert tally.dropped >= 1


def test_random_segments_never_go_on_from_the_truncated_segment_a() -> None:
    documents = [[[1, 1, 1, 1, 1], [3, 3, 3]], [[1]]]
    first_ends = set()
    for seed in range(50):
        sequences, _ = compiled_pairs(make_corpus(documents, seed), 8, 0.0)
        first = sequences.a_starts < 5
        first_ends |= set((sequences.a_starts + sequences.a_lengths)[first].tolist())
    assert first_ends == {5}  # had it lost its last token, the other document's only one would be just what follows


def test_golden() -> None:
    documents = [
        [[10, 11, 12], [13, 14], [15, 16, 17, 18], [19]],
        [[20, 21], [22, 23, 24, 25, 26, 27, 28, 29, 30, 31], [32, 33, 34]],
        [[40, 41, 42, 43, 44]],
        [[50], [51, 52], [53, 54, 55], [56, 57, 58, 59]],
        [[40, 41, 42, 43, 44]],
    ]
    corpus = make_corpus(documents, seed=3, order=[2, 0, 4, 3, 1])
    sequences, tally = compiled_pairs(corpus, 12, 0.5)
    assert instances_of(sequences, corpus) == [
        Instance([40, 41, 42, 43, 44], [19], NOT_NEXT, True, 16724093244474096886),
        Instance([10, 11, 12, 13, 14], [32, 33, 34], NOT_NEXT, False, 2454517658691732210),
        Instance([15, 16, 17, 18], [19], IS_NEXT, False, 12768853562161281780),
        Instance([40, 41, 42, 43, 44], [32, 33, 34], NOT_NEXT, True, 12173714186886826293),
        Instance([50], [19], NOT_NEXT, False, 5217839220990404009),
        Instance([51, 52], [53, 54, 55], IS_NEXT, False, 17233596350528022686),
        Instance([56, 57, 58, 59], [40, 41, 42, 43, 44], NOT_NEXT, True, 7945932281544011484),
        Instance([20, 21], [23, 24, 25, 26, 27, 28, 29], IS_NEXT, False, 12981969810055335448),
        Instance([32, 33, 34], [40, 41, 42, 43, 44], NOT_NEXT, True, 3942193955069278410),
    ]
    assert tally == Tally(made=45, placed=42, truncated=3, unpaired=0, negatives=18, redrawn=2, dropped=0)

"""Corpora of small integers for the tests of pairings, and the draws of `shards/randomness.py` on plain integers."""

import random
from itertools import accumulate, chain
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from prep.pairing.sequences import Docs

Document = list[list[int]]  # sentences of tokens


BITS_64 = 2**64 - 1


GOLDEN_GAMMA = 0x9E3779B97F4A7C15


class Corpus(NamedTuple):
    documents: list[Document]
    hashes: list[int]
    keys: list[int]
    order: list[int]


def splitmix64(value: int) -> int:
    z = (value + GOLDEN_GAMMA) & BITS_64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & BITS_64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & BITS_64
    return z ^ (z >> 31)


def random_bits(key: int, index: int) -> int:
    return splitmix64((key + index * GOLDEN_GAMMA) & BITS_64)


def random_fraction(key: int, index: int) -> float:
    return (random_bits(key, index) >> 11) / 2**53


def random_integer(key: int, index: int, low: int, high: int) -> int:
    """A random number from low to high, like random.randint."""
    return low + ((random_bits(key, index) >> 32) * (high - low + 1) >> 32)


def key_below(key: int, number: int) -> int:
    return splitmix64(key ^ splitmix64(number))


def flatten(sentences: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(sentences))


def offsets(lengths: list[int]) -> list[int]:
    return list(accumulate(lengths, initial=0))


def sentence_offsets(corpus: Corpus) -> list[int]:
    """Where each sentence begins, in tokens, and where the last one ends."""
    return offsets([len(sentence) for document in corpus.documents for sentence in document])


def document_offsets(corpus: Corpus) -> list[int]:
    """Where each document begins, in tokens, and where the last one ends."""
    return offsets([len(flatten(document)) for document in corpus.documents])


def flat_ids(corpus: Corpus) -> list[int]:
    return flatten(flatten(corpus.documents))


def docs_of(corpus: Corpus) -> Docs:
    return Docs(
        np.array(corpus.order, np.int64),
        np.array(offsets([len(document) for document in corpus.documents]), np.int64),
        np.array(sentence_offsets(corpus), np.int64),
        np.array(flat_ids(corpus), np.uint16),
        np.array(corpus.hashes, np.uint64),
        np.array(corpus.keys, np.uint64),
    )


def make_corpus(documents: list[Document], seed: int, order: list[int] | None = None) -> Corpus:
    """With a key for each document, and equal hashes for equal documents."""
    hashes = [splitmix64(documents.index(document)) for document in documents]
    keys = [key_below(seed, number) for number in range(len(documents))]
    return Corpus(documents, hashes, keys, list(range(len(documents))) if order is None else order)


def lists_up_to(max_size: int, elements: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Lists of 1 to max_size elements, long ones as often as short ones."""
    return st.integers(1, max_size).flatmap(lambda size: st.lists(elements, min_size=size, max_size=size))


@st.composite
def corpora(draw: st.DrawFn) -> Corpus:
    """Documents of sentences from a small pool, some of them twice: continuations repeat, and so does content."""
    sentence_pool = draw(lists_up_to(6, lists_up_to(draw(st.sampled_from([3, 40])), st.integers(0, 2))))
    documents = draw(lists_up_to(9, lists_up_to(20, st.sampled_from(sentence_pool))))
    documents += draw(st.lists(st.sampled_from(documents), max_size=3))
    order = draw(st.permutations(range(len(documents))))
    return make_corpus(documents, draw(st.integers(0, BITS_64)), order)


def random_corpus(num_documents: int, seed: int) -> Corpus:
    """Documents of old and new sentences; some documents occur twice."""
    rng = random.Random(seed)
    sentences = [rng.choices(range(50), k=rng.randint(1, 40)) for _ in range(2000)]
    documents: list[Document] = []
    for _ in range(num_documents):
        if documents and rng.random() < 0.1:
            documents.append(rng.choice(documents))
        else:
            documents.append(rng.choices(sentences, k=rng.randint(1, 60)))
    return make_corpus(documents, seed, rng.sample(range(num_documents), k=num_documents))


def single_token_corpus(num_documents: int, num_sentences: int) -> Corpus:
    """Every sentence is one token, so that a chunk is as long as the target unless its document ends."""
    return make_corpus([[[number]] * num_sentences for number in range(num_documents)], seed=11)


max_seq_lens = st.integers(8, 64)


short_seq_probs = st.sampled_from([0.0, 0.1, 1.0])

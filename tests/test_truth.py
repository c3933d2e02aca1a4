"""What a data set claims, judged from the corpus by code that shares nothing with the pipeline but the tokenizer file."""

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import sentencex
from commands import manifest_of
from conftest import BuildRunner
from tokenizers import Tokenizer

CLS, SEP, MASK = "[CLS]", "[SEP]", "[MASK]"


class Corpus:
    """The documents as token ids, and where each run of three ids occurs."""

    def __init__(self, texts: list[str], tokenizer: Tokenizer) -> None:
        sentences = [[s.strip() for s in sentencex.segment("en", text)] for text in texts]
        self.documents = [
            [i for s in document for i in tokenizer.encode(s, add_special_tokens=False).ids] for document in sentences
        ]
        self.places: dict[tuple[int, ...], set[tuple[int, int]]] = defaultdict(set)
        for number, ids in enumerate(self.documents):
            for at in range(len(ids)):
                for length in (1, 2, 3):
                    self.places[tuple(ids[at : at + length])].add((number, at))

    def find(self, ids: list[int]) -> Iterator[tuple[int, int]]:
        """(document, position) of every place where the ids occur."""
        for number, at in self.places.get(tuple(ids[:3]), ()):
            if self.documents[number][at : at + len(ids)] == ids:
                yield number, at

    def follows(self, a: list[int], b: list[int]) -> bool:
        """Whether B comes somewhere behind A in a document that has both."""
        ends: dict[int, int] = {}
        for number, at in self.find(a):
            ends[number] = min(at + len(a), ends.get(number, at + len(a)))
        return any(at >= ends[number] for number, at in self.find(b) if number in ends)

    def follows_at_once(self, a: list[int], b: list[int]) -> bool:
        """Whether the documents have B right behind A."""
        return any(self.documents[n][at + len(a) : at + len(a) + len(b)] == b for n, at in self.find(a))


def interval(share: float, total: int) -> float:
    """Half the width of the 99.9 % interval of a measured share."""
    return 3.29 * math.sqrt(share * (1 - share) / total)


@pytest.fixture
def texts(paragraphs: list[str]) -> list[str]:
    return [text for text in dict.fromkeys(paragraphs) if "[" not in text][:1500]


def test_labels_masks_and_rates_are_true(texts: list[str], build: BuildRunner, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(texts), encoding="utf8")
    out = build(tmp_path / "a.txt", "--eval-fraction", 0, "--copies", 2)
    tokenizer = Tokenizer.from_file(str(out / "tokenizer" / "tokenizer.json"))
    special = {token: tokenizer.token_to_id(token) for token in (CLS, SEP, MASK, "[PAD]", "[UNK]")}
    corpus = Corpus(texts, tokenizer)
    split = manifest_of(out)["splits"]["train"]
    next_pairs = not_next_pairs = masked = shown_mask = stayed = drawn = 0
    for shard in split["shards"]:
        for row in pq.read_table(out / shard["path"]).to_pylist():
            original = list(row["input_ids"])
            for position, label in zip(row["masked_positions"], row["masked_labels"], strict=True):
                shown = original[position]
                masked += 1
                shown_mask += shown == special[MASK]
                stayed += shown == label
                drawn += shown not in (special[MASK], label)
                assert label not in special.values() and shown not in {*special.values()} - {special[MASK]}
                original[position] = label
            start = 0
            for length, a_length, label in zip(
                row["sequence_lengths"], row["segment_a_lengths"], row["next_sentence_label"], strict=True
            ):
                sequence = original[start : start + length]
                a, b = sequence[1 : a_length - 1], sequence[a_length:-1]
                assert [sequence[0], sequence[a_length - 1], sequence[-1]] == [special[CLS], special[SEP], special[SEP]]
                assert not {*a, *b} & {special[CLS], special[SEP], special[MASK], special["[PAD]"]}
                assert any(corpus.find(a)) and any(corpus.find(b))
                if label == 0:
                    assert corpus.follows(a, b)
                    next_pairs += 1
                else:
                    not_next_pairs += not corpus.follows_at_once(a, b)
                    home = {number for number, _ in corpus.find(a)}
                    assert len(home) > 1 or not corpus.follows_at_once(a, b)
                start += length
    forced = split["forced_not_next"]
    unforced = split["sequences"] - forced
    assert next_pairs + not_next_pairs >= split["sequences"] - 3  # equal text in several documents may look like more
    assert split["sequences"] - next_pairs == split["not_next"]
    assert abs((split["not_next"] - forced) / unforced - 0.5) < interval(0.5, unforced)
    for count, share in ((shown_mask, 0.8), (stayed, 0.1), (drawn, 0.1)):
        assert abs(count / masked - share) < interval(share, masked) + 1 / 4000  # a random token may be the same one

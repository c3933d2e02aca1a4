"""A vocabulary trained on a sample of the corpus, the same every time: WordPiece here, byte-level BPE in `byte_level`.

The trainer of `tokenizers` takes the order of ids from hash maps, unless it knows every symbol beforehand. Therefore the
alphabet of WordPiece is counted first, and passed to it sorted, together with its `##` forms.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from prep.corpus.documents import HARMLESS, Fault, Rule, Span, fault_error
from prep.corpus.formats import FORMATS
from prep.corpus.read import read_documents
from prep.settings import Splitting, VocabularyKind
from prep.tokens.byte_level import train_byte_level, without_long_words
from prep.tokens.long_texts import cut_text
from prep.tokens.sentences import split_sentences
from prep.tokens.tokenizer import SPECIAL_TOKENS, PreparedTokenizer, is_saved, prepare, wordpiece
from shards.errors import UserError
from shards.randomness import Purpose, address

SAMPLE_BYTES = 100 << 20
_MIN_BYTES_PER_SPAN = 1 << 20
_MAX_ALPHABET = 1_000
_UNICODE = 0x110000


@dataclass(frozen=True)
class VocabularyTask:
    """A vocabulary to train, and the folder to save its tokenizer in."""

    spans: tuple[Span, ...]
    rule: Rule
    splitting: Splitting
    kind: VocabularyKind
    size: int
    cased: bool  # of WordPiece; byte-level BPE always is
    skip_faults: bool
    url: str

    @property
    def name(self) -> str:
        """The name of the task in messages."""
        return f"training a vocabulary of {self.size} entries"


def make_vocabulary(task: VocabularyTask) -> str:
    """Trains a vocabulary and saves its tokenizer, unless that was done before. Returns the folder."""
    if not is_saved(task.url):
        train_vocabulary(task).save(task.url)
    return task.url


def train_vocabulary(task: VocabularyTask) -> PreparedTokenizer:
    """A tokenizer of at most `size` entries, trained on up to SAMPLE_BYTES of text.

    Raises UserError if there is no text to train on, and at a broken document unless `skip_faults` is set.
    """
    texts = list(sample_texts(task))
    if not texts:
        raise UserError("the corpus has no text to train a vocabulary on; check --corpus and --document")
    bpe = task.kind == "byte-level BPE"
    tokenizer = train_byte_level(texts, task.size) if bpe else _train_wordpiece(texts, task.size, task.cased)
    return prepare(tokenizer, {}, f"train{'-bpe' * bpe}:{task.size}")


def _train_wordpiece(sentences: Sequence[str], size: int, cased: bool) -> Tokenizer:
    """A WordPiece tokenizer of at most `size` entries."""
    normalizer = normalizers.BertNormalizer(lowercase=not cased)
    alphabet, rare = _alphabet(sentences, normalizer, min(_MAX_ALPHABET, size // 4))
    tokenizer = Tokenizer(models.WordPiece({}, unk_token=SPECIAL_TOKENS["unk"]))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=[*SPECIAL_TOKENS.values(), *(f"##{character}" for character in alphabet)],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    spaces = dict.fromkeys(rare, " ")
    texts = (sentence.translate(spaces) for sentence in sentences) if spaces else iter(sentences)
    tokenizer.train_from_iterator(without_long_words(texts), trainer)
    return wordpiece(tokenizer.get_vocab(with_added_tokens=False), lowercase=not cased)


def sample_texts(task: VocabularyTask) -> Iterator[str]:
    """The texts that are encoded later, of at most SAMPLE_BYTES: the same number of bytes from the start of each span.

    Spans come in an order drawn by their number, so that a sample which ends early still covers the corpus.
    """
    spans = task.spans
    # The size on disk says nothing of the amount of text in compressed files and in Parquet.
    has_plain_sizes = all(FORMATS[span.file.format].spans_are_bytes and not span.file.compression for span in spans)
    everything = has_plain_sizes and sum(map(_bytes_of, spans)) <= SAMPLE_BYTES
    bytes_per_span = SAMPLE_BYTES if everything else max(_MIN_BYTES_PER_SPAN, SAMPLE_BYTES // len(spans))
    keys = address(0, Purpose.VOCABULARY_SAMPLE, np.arange(len(spans), dtype=np.uint64))
    bytes_left = SAMPLE_BYTES
    for index in np.argsort(keys, kind="stable"):
        bytes_of_span = 0
        for item in read_documents(spans[index], task.rule):
            if isinstance(item, Fault):
                if not task.skip_faults and item.reason not in HARMLESS:
                    raise fault_error(spans[index].file, item)
            else:
                yield from _texts_of(item.text, task)
                bytes_of_span += item.num_bytes
            if bytes_of_span >= min(bytes_per_span, bytes_left):
                break
        bytes_left -= bytes_of_span
        if bytes_left <= 0:
            return


def _texts_of(text: str, task: VocabularyTask) -> list[str]:
    """The sentences of a document, or its parts; byte-level BPE gets the blank before a sentence, too."""
    if task.splitting.rule == "whole":
        return cut_text(text, {" ": "before", "\n": "before"})
    sentences = split_sentences(text, task.splitting)
    return sentences[:1] + [f" {text}" for text in sentences[1:]] if task.kind == "byte-level BPE" else sentences


def _bytes_of(span: Span) -> int:
    """Bytes of a span of a format whose spans count bytes."""
    return (span.file.bytes if span.stop is None else span.stop) - span.start


def _alphabet(sentences: Sequence[str], normalizer: normalizers.Normalizer, limit: int) -> tuple[list[str], list[int]]:
    """The `limit` most frequent characters after normalization, sorted.

    Also the code points of the raw characters that are normalized to any other character.
    """
    counts: npt.NDArray[np.int64] = np.zeros(_UNICODE, np.int64)
    for start in range(0, len(sentences), 10_000):
        text = " ".join(sentences[start : start + 10_000])
        counts += np.bincount(np.frombuffer(text.encode("utf-32-le"), "<u4"), minlength=_UNICODE)
    normalized = {int(code): normalizer.normalize_str(chr(code)) for code in np.flatnonzero(counts)}
    frequency: Counter[str] = Counter()
    for code, characters in normalized.items():
        for character in characters:
            if not character.isspace():
                frequency[character] += int(counts[code])
    alphabet = set(sorted(sorted(frequency), key=lambda character: -frequency[character])[:limit])
    rare = [code for code, characters in normalized.items() if any(not c.isspace() and c not in alphabet for c in characters)]
    return sorted(alphabet), rare

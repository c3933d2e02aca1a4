"""A WordPiece vocabulary trained on a sample of the corpus, the same every time.

The trainer of `tokenizers` orders ids by hash maps unless every symbol is known beforehand. So the alphabet is counted
first and handed over sorted, together with its `##` forms.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from prep.corpus.documents import HARMLESS, Fault, Rule, Span, fault_error
from prep.corpus.read import read_documents
from prep.settings import Splitting
from prep.tokens.sentences import split_sentences
from prep.tokens.tokenizer import SPECIAL_TOKENS, PreparedTokenizer, is_saved, prepare, wordpiece
from shards.errors import UserError
from shards.randomness import Purpose, address

SAMPLE_BYTES = 100 << 20
_MIN_SHARE_BYTES = 1 << 20
_MAX_ALPHABET = 1_000
_UNICODE = 0x110000


@dataclass(frozen=True)
class VocabularyTask:
    """The vocabulary to train, and the folder that its tokenizer goes to."""

    spans: tuple[Span, ...]
    rule: Rule
    splitting: Splitting
    size: int
    cased: bool
    skip_faults: bool
    url: str

    @property
    def name(self) -> str:
        """For messages."""
        return f"training a vocabulary of {self.size} entries"


def make_vocabulary(task: VocabularyTask) -> str:
    """Trains a vocabulary and publishes it, unless it is there; returns its folder."""
    if not is_saved(task.url):
        tokenizer = train_vocabulary(task.spans, task.rule, task.splitting, task.size, task.cased, task.skip_faults)
        tokenizer.save(task.url)
    return task.url


def train_vocabulary(
    spans: Sequence[Span], rule: Rule, splitting: Splitting, size: int, cased: bool, skip_faults: bool = False
) -> PreparedTokenizer:
    """A WordPiece tokenizer of at most `size` entries, trained on up to SAMPLE_BYTES of text from addressed spans.

    Raises UserError when there is no text to train on, and at a broken document unless told to skip it.
    """
    normalizer = normalizers.BertNormalizer(lowercase=not cased)
    sentences = list(_sample(spans, rule, splitting, skip_faults))
    if not sentences:
        raise UserError("the corpus holds no text to train a vocabulary on; check --corpus and --document")
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
    blank = dict.fromkeys(rare, " ")
    texts = (sentence.translate(blank) for sentence in sentences) if blank else iter(sentences)
    tokenizer.train_from_iterator(texts, trainer)
    return prepare(wordpiece(tokenizer.get_vocab(with_added_tokens=False), lowercase=not cased), {}, f"train:{size}")


def _sample(spans: Sequence[Span], rule: Rule, splitting: Splitting, skip_faults: bool) -> Iterator[str]:
    """Sentences from the start of spans chosen by address, an equal share of each."""
    total = sum(
        span.file.bytes if span.stop is None or span.file.format == "parquet" else span.stop - span.start for span in spans
    )
    everything = total <= SAMPLE_BYTES and not any(span.file.compression or span.file.format == "parquet" for span in spans)
    share = SAMPLE_BYTES if everything else max(_MIN_SHARE_BYTES, SAMPLE_BYTES // len(spans))
    keys = address(0, Purpose.VOCABULARY_SAMPLE, np.arange(len(spans), dtype=np.uint64))
    left = SAMPLE_BYTES
    for index in np.argsort(keys, kind="stable"):
        taken = 0
        for item in read_documents(spans[index], rule):
            if isinstance(item, Fault):
                if not skip_faults and item.reason not in HARMLESS:
                    raise fault_error(spans[index].file, item)
            else:
                yield from split_sentences(item.text, splitting)
                taken += item.num_bytes
            if taken >= share or taken >= left:
                break
        left -= taken
        if left <= 0:
            return


def _alphabet(sentences: Sequence[str], normalizer: normalizers.Normalizer, limit: int) -> tuple[list[str], list[int]]:
    """The `limit` most frequent characters after normalization, sorted; and the raw characters that hold any other."""
    counts: npt.NDArray[np.int64] = np.zeros(_UNICODE, np.int64)
    for start in range(0, len(sentences), 10_000):
        text = " ".join(sentences[start : start + 10_000])
        counts += np.bincount(np.frombuffer(text.encode("utf-32-le"), "<u4"), minlength=_UNICODE)
    normal = {int(code): normalizer.normalize_str(chr(code)) for code in np.flatnonzero(counts)}
    frequency: dict[str, int] = {}
    for code, characters in normal.items():
        for character in characters:
            if not character.isspace():
                frequency[character] = frequency.get(character, 0) + int(counts[code])
    kept = sorted(sorted(frequency), key=lambda character: -frequency[character])[:limit]
    allowed = set(kept)
    rare = [code for code, characters in normal.items() if any(not c.isspace() and c not in allowed for c in characters)]
    return sorted(kept), rare

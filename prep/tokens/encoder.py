"""Sentences -> token ids in flat arrays, with the reference tokenizer or with a fast one that is compared with it."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt
from tokenizers import decoders

from prep.tokens import long_texts
from prep.tokens.fast import REFERENCE, Encoded, installed_engine, library_for, open_fast
from prep.tokens.rare_tokens import have_any, have_rare_tokens
from prep.tokens.tokenizer import TOKENIZERS, PreparedTokenizer, library_errors
from shards.errors import UserError
from shards.randomness import draw_below
from shards.schema import lengths_to_offsets, token_dtype

# One of this many sentences is compared, and as many again of those with a rare token: 0.5 % in all, a twentieth of the time.
CHECK_EVERY = 400
_BATCH_CHARS = 1 << 20
_WINDOW_CHARS = 1 << 10
# Texts on which tokenizers differ: special tokens, accents, wide spaces, CJK, title case, long words, numbers, controls.
_PROBES = [
    "a [MASK] b[SEP]",
    "[CLS]\u00e9cole\u3000\u4e2d\u6587 e\u0301 \u01c5 \u0130I",
    "x" * 300,
    "1,000.5-th \u2019t \x07\u200b\ufffd",
    "",
]
_PROBE_WORDS = 100  # per probe that is made of a vocabulary or of characters
_AGREES: dict[tuple[str, str], bool] = {}  # (engine, identity of a tokenizer) -> whether this process saw them agree


class EngineMismatchError(Exception):
    """The fast tokenizer gave other ids than the reference. What it encoded must be encoded again without it."""


def resolve_engine(tokenizer: PreparedTokenizer, engine: str) -> tuple[str, str | None]:
    """The engine that a build uses with this tokenizer where `engine` is there, and why it is the slow one, if it is.

    The answer is the same wherever the same engine is installed. Raises UserError if another one is.
    """
    library = library_for(tokenizer.definition)
    if library is None:
        return REFERENCE, f"no fast tokenizer knows this {tokenizer.model} tokenizer"
    if engine == REFERENCE:
        return REFERENCE, f"{library} is not installed; install it with pip install 'bert-shards[fast]'"
    installed = installed_engine(tokenizer.definition)
    if engine != installed:
        raise UserError(
            f"the tokens of this build are made with {engine}, but here is {installed}; install {engine}, or set "
            "--tokenizer-engine reference everywhere"
        )
    key = (engine, tokenizer.identity)
    if key not in _AGREES:
        _AGREES[key] = _agrees(tokenizer, engine)
    if not _AGREES[key]:
        return REFERENCE, f"{library} does not know this tokenizer, or gives other ids"
    return engine, None


def _agrees(tokenizer: PreparedTokenizer, engine: str) -> bool:
    """Whether the fast tokenizer gives the reference's ids for every token of the vocabulary and every common character."""
    fast = Encoder(tokenizer, engine)
    probes = list(_probes(tokenizer))
    return fast.is_fast and fast.agrees(probes) and _merges_suffice(tokenizer, probes)


def _probes(tokenizer: PreparedTokenizer) -> Iterator[str]:
    """Texts with every token of the vocabulary, every common character, and what else tokenizers differ on."""
    yield from _PROBES
    codes = (*range(32, 0x3100), *range(0x3100, 0xD800, 16), *range(0xE000, 0x20000, 16))  # ideographs: a sample
    characters, separators = [chr(code) for code in codes], [" "]
    # A tokenizer that lowercases sees the same words again in titles, but for their first letters: a sample will do.
    normalizer = tokenizer.reference.normalizer
    titles = islice(tokenizer.vocab, 0, None, 8 if normalizer and normalizer.normalize_str("A") == "a" else 1)
    words = [*tokenizer.vocab, *(token.removeprefix("##").title() for token in titles), *characters]
    if tokenizer.model == "BPE":
        # Each token after a blank and after a line end, where it is a word by itself.
        tokens = map(decoders.ByteLevel().decode, zip(tokenizer.vocab, strict=True))
        words, separators = [*tokens, *(f"a{character}1{character}.{character}" for character in characters)], [" ", "\n"]
    for separator in separators:
        for start in range(0, len(words), _PROBE_WORDS):
            yield separator.join(words[start : start + _PROBE_WORDS])


def _merges_suffice(tokenizer: PreparedTokenizer, probes: Sequence[str]) -> bool:
    """Whether `ignore_merges` changes nothing, because merges make each token of the vocabulary.

    The two libraries know different versions of Unicode, so the words of a text may have different borders at letters that
    are new. The ids do not show it, unless a whole word is looked up.
    """
    if not tokenizer.definition["model"].get("ignore_merges"):
        return True
    definition = {**tokenizer.definition, "model": {**tokenizer.definition["model"], "ignore_merges": False}}
    merging = PreparedTokenizer(json.dumps(definition), tokenizer.roles)
    with_lookup, without = (Encoder(each, REFERENCE).encode(probes)[0] for each in (tokenizer, merging))
    return np.array_equal(with_lookup, without)


class Encoder:
    """Encodes texts without special tokens. `engine` is `reference`, or the fast tokenizer of `installed_engine`."""

    def __init__(self, tokenizer: PreparedTokenizer, engine: str) -> None:
        """Raises UserError if the engine is not installed here."""
        self._tokenizer = tokenizer
        self._reference = tokenizer.reference
        self.id_type = token_dtype(tokenizer.vocab_size)
        self.unknown_id: int | None = tokenizer.special_ids.get("unk")
        self.needs_leading_space = tokenizer.needs_leading_space
        self._is_special: npt.NDArray[np.bool_] = np.zeros(tokenizer.vocab_size, np.bool_)
        self._is_special[list(tokenizer.special_ids.values())] = True
        installed = REFERENCE if engine == REFERENCE else installed_engine(tokenizer.definition)
        if engine != installed:
            raise UserError(f"a worker has {installed}, this build uses {engine}; install the same on all machines")
        self._fast = open_fast(tokenizer.definition) if engine != REFERENCE else None
        # What encodes, with its version.
        self.engine = TOKENIZERS if self._fast is None else engine

    @property
    def is_fast(self) -> bool:
        """Whether the fast tokenizer is used."""
        return self._fast is not None

    def parts_of(self, text: str) -> list[str]:
        """The text in parts that give its ids one by one; nothing for an empty text."""
        if len(text) <= long_texts.PART_CHARS:
            return [text] if text else []
        return long_texts.cut_text(text, self._tokenizer.cuts)

    def encode(self, sentences: Sequence[str], number: int = 0) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.int64]]:
        """Flat ids [tokens], and the number of tokens of each sentence [sentences].

        A text may spell out a special token; its id becomes the unknown token's, or is left out if there is none.
        `number`, of the first sentence in its unit, tells which are compared. Raises EngineMismatchError if one of them
        differs, and UserError if the tokenizer cannot encode a sentence.
        """
        if self._fast is None:
            ids, lengths = self._encode_reference(sentences)
        else:
            ids, lengths = self._encode_fast(sentences)
            if not self.agrees([_window(sentences[i], number + i) for i in self._to_compare(ids, lengths, number)]):
                raise EngineMismatchError
        if have_any(ids, self._is_special):
            ids, lengths = self._without_special(ids, lengths)
        return ids.astype(self.id_type), lengths

    def _without_special(self, ids: npt.NDArray[np.integer], lengths: npt.NDArray[np.int64]) -> Encoded:
        special = self._is_special[ids]
        if self.unknown_id is not None:
            return np.where(special, np.uint32(self.unknown_id), ids), lengths
        return ids[~special], np.diff(lengths_to_offsets(~special)[lengths_to_offsets(lengths)])

    def _to_compare(self, ids: npt.NDArray[np.uint32], lengths: npt.NDArray[np.int64], number: int) -> list[int]:
        """The unit's first sentence and every CHECK_EVERY-th, and as many of those with a rare token or an unknown one."""
        num = len(lengths)
        unknown = -1 if self.unknown_id is None else self.unknown_id
        rare = np.flatnonzero(have_rare_tokens(ids, lengths, len(self._is_special), unknown))
        step = max(1, len(rare) * CHECK_EVERY // max(1, num))
        return sorted({*range(-number % CHECK_EVERY, num, CHECK_EVERY), *rare[number % step :: step].tolist()})

    def agrees(self, sentences: Sequence[str]) -> bool:
        """Whether both tokenizers give the same ids for all sentences."""
        reference, fast = self._encode_reference(sentences), self._encode_fast(sentences)
        return np.array_equal(reference[0], fast[0]) and np.array_equal(reference[1], fast[1])

    def _encode_reference(self, sentences: Sequence[str]) -> Encoded:
        parts: list[npt.NDArray[np.uint32]] = [np.empty(0, np.uint32)]
        for batch in _batches(sentences):
            with library_errors(
                "--tokenizer: cannot encode a sentence", "add an unknown token to it, or use another tokenizer"
            ):
                encodings = self._reference.encode_batch_fast(batch, add_special_tokens=False)
            parts += (np.array(encoding.ids, np.uint32) for encoding in encodings)
        return np.concatenate(parts), np.array([len(part) for part in parts[1:]], np.int64)

    def _encode_fast(self, sentences: Sequence[str]) -> Encoded:
        assert self._fast is not None
        with library_errors(f"{self.engine} cannot encode a sentence", "set --tokenizer-engine reference"):
            return self._fast.encode(sentences)


def _window(text: str, number: int) -> str:
    """A long text costs as much to compare as one of _WINDOW_CHARS: now and then all of it, else a part. `number` draws."""
    num_windows = len(text) // _WINDOW_CHARS
    if not num_windows:
        return text
    key = np.uint64(number)
    if draw_below(key, 0, num_windows + 1) == 0:
        return text
    start = int(draw_below(key, 1, len(text) - _WINDOW_CHARS + 1))
    return text[start : start + _WINDOW_CHARS]


def _batches(sentences: Sequence[str]) -> Iterator[list[str]]:
    """Sentences in batches of about _BATCH_CHARS: the reference needs some 50 bytes for each character of a batch."""
    batch: list[str] = []
    size = 0
    for sentence in sentences:
        batch.append(sentence)
        size += len(sentence)
        if size >= _BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

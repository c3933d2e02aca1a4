"""Sentences -> token ids in flat arrays, with the reference tokenizer or with a fast one that is compared with it."""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import numpy.typing as npt

from prep.tokens.tokenizer import TOKENIZERS, PreparedTokenizer
from shards.errors import UserError
from shards.schema import lengths_to_offsets, token_dtype

# One of this many sentences is compared, and as many again of those that hold a rare token: 1 % in all, which costs a tenth.
CHECK_EVERY = 200
REFERENCE = "reference"
_CACHE_ENTRIES = 1 << 18
_BATCH_CHARS = 1 << 20
# Texts on which tokenizers differ: special tokens, accents, wide spaces, CJK, title case, long words, numbers, controls.
_PROBES = [
    "a [MASK] b[SEP]",
    "[CLS]\u00e9cole\u3000\u4e2d\u6587 e\u0301 \u01c5 \u0130I",
    "x" * 300,
    "1,000.5-th \u2019t \x07\u200b\ufffd",
    "",
]
_PROBE_WORDS = 100  # per probe that is made of a vocabulary or of characters


class EngineMismatchError(Exception):
    """The fast tokenizer gave other ids than the reference. What it encoded must be encoded again without it."""


def installed_engine() -> str:
    """The fast tokenizer with its version, such as `nanotoken 0.1.0`; `reference` if it is not installed."""
    try:
        return f"nanotoken {version('nanotoken')}"
    except PackageNotFoundError:
        return REFERENCE


def resolve_engine(tokenizer: PreparedTokenizer, engine: str) -> tuple[str, str | None]:
    """The engine that a build uses with this tokenizer where `engine` is there, and why it is the slow one, if it is.

    The answer is the same wherever the same engine is installed. Raises UserError if another one is.
    """
    if engine == REFERENCE:
        return REFERENCE, "nanotoken is not installed; install it with pip install 'bert-shards[fast]'"
    if tokenizer.model != "WordPiece":
        return REFERENCE, f"nanotoken does not know {tokenizer.model} tokenizers"
    if engine != installed_engine():
        raise UserError(
            f"the tokens of this build are made with {engine}, but here is {installed_engine()}; install {engine}, or set "
            "--tokenizer-engine reference everywhere"
        )
    if not _agrees(tokenizer.json_text, tuple(sorted(tokenizer.roles.items()))):
        return REFERENCE, "nanotoken does not know this tokenizer, or gives other ids"
    return engine, None


@lru_cache(maxsize=4)
def _agrees(json_text: str, roles: tuple[tuple[str, str], ...]) -> bool:
    """Whether the fast tokenizer gives the reference's ids for every token of the vocabulary and every common character."""
    tokenizer = PreparedTokenizer(json_text, dict(roles))
    fast = Encoder(tokenizer, installed_engine())
    codes = (*range(32, 0x3100), *range(0x3100, 0xD800, 16), *range(0xE000, 0x20000, 16))  # ideographs: a sample
    characters = [chr(code) for code in codes]
    words = [*tokenizer.vocab, *(token.removeprefix("##").title() for token in tokenizer.vocab), *characters]
    probes = [" ".join(words[i : i + _PROBE_WORDS]) for i in range(0, len(words), _PROBE_WORDS)]
    return fast.is_fast and fast.agrees([*_PROBES, *probes])


class Encoder:
    """Encodes sentences without special tokens. `engine` is `reference`, or the fast tokenizer of `installed_engine`."""

    def __init__(self, tokenizer: PreparedTokenizer, engine: str) -> None:
        """Raises UserError if the engine is not installed here."""
        self._reference = tokenizer.reference
        self.id_type = token_dtype(tokenizer.vocab_size)
        self.unknown_id: int | None = tokenizer.special_ids.get("unk")
        self.needs_leading_space = tokenizer.needs_leading_space
        self._is_special: npt.NDArray[np.bool_] = np.zeros(tokenizer.vocab_size, np.bool_)
        self._is_special[list(tokenizer.special_ids.values())] = True
        if engine not in (REFERENCE, installed_engine()):
            raise UserError(f"a worker has {installed_engine()}, this build uses {engine}; install the same on all machines")
        self._fast = _fast_tokenizer(tokenizer) if engine != REFERENCE else None
        # What encodes, with its version.
        self.engine = TOKENIZERS if self._fast is None else engine

    @property
    def is_fast(self) -> bool:
        """Whether the fast tokenizer is used."""
        return self._fast is not None

    def encode(self, sentences: Sequence[str], offset: int = 0) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.int64]]:
        """Flat ids [tokens], and the number of tokens of each sentence [sentences].

        A text may spell out a special token; its id becomes the unknown token's, or is left out if there is none.
        `offset` chooses which sentences are compared. Raises EngineMismatchError if one of them differs, and UserError if
        the tokenizer cannot encode a sentence.
        """
        if self._fast is None:
            ids, lengths = self._encode_reference(sentences)
        else:
            ids, lengths = self._encode_fast(sentences)
            if not self.agrees([sentences[i] for i in self._to_compare(ids, lengths, offset)]):
                raise EngineMismatchError
        special = self._is_special[ids]
        if special.any() and self.unknown_id is not None:
            ids[special] = self.unknown_id
        elif special.any():
            lengths = np.diff(lengths_to_offsets(~special)[lengths_to_offsets(lengths)])
            ids = ids[~special]
        return ids.astype(self.id_type), lengths

    def _to_compare(self, ids: npt.NDArray[np.uint32], lengths: npt.NDArray[np.int64], offset: int) -> list[int]:
        """One sentence in CHECK_EVERY, and as many of those with a token that occurs once here, or with an unknown one."""
        num = len(lengths)
        is_rare = np.bincount(ids, minlength=len(self._is_special))[ids] == 1
        if self.unknown_id is not None:
            is_rare |= ids == self.unknown_id
        rare = np.unique(np.repeat(np.arange(num), lengths)[is_rare])
        first = offset % min(CHECK_EVERY, max(1, num))
        step = max(1, len(rare) * CHECK_EVERY // max(1, num))
        return sorted({*range(first, num, CHECK_EVERY), *rare[offset % step :: step].tolist()})

    def agrees(self, sentences: Sequence[str]) -> bool:
        """Whether both tokenizers give the same ids for all sentences."""
        reference, fast = self._encode_reference(sentences), self._encode_fast(sentences)
        return np.array_equal(reference[0], fast[0]) and np.array_equal(reference[1], fast[1])

    def _encode_reference(self, sentences: Sequence[str]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        parts: list[npt.NDArray[np.uint32]] = [np.empty(0, np.uint32)]
        for batch in _batches(sentences):
            try:
                encodings = self._reference.encode_batch_fast(batch, add_special_tokens=False)
            except Exception as error:  # the library raises bare Exception
                raise UserError(
                    f"--tokenizer: cannot encode a sentence ({error}); add an unknown token to it, or use another tokenizer"
                ) from error
            parts += (np.array(encoding.ids, np.uint32) for encoding in encodings)
        return np.concatenate(parts), np.array([len(part) for part in parts[1:]], np.int64)

    def _encode_fast(self, sentences: Sequence[str]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        assert self._fast is not None
        ids, offsets = self._fast.encode_batch(list(sentences), add_special_tokens=False, parallel=False)
        return ids, np.diff(offsets)


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


def _fast_tokenizer(tokenizer: PreparedTokenizer):  # type: ignore[no-untyped-def]  # a type of an optional package
    """The same tokenizer in nanotoken; None if that is not installed, or does not know this kind of tokenizer."""
    try:
        import nanotoken
    except ImportError:
        return None
    definition = json.loads(tokenizer.json_text)
    # Without them, a special token that a text spells out is text, as it is to the reference here.
    definition["added_tokens"] = [token for token in definition["added_tokens"] if not token["special"]]
    definition["post_processor"] = None
    nanotoken.set_cache_entries(_CACHE_ENTRIES)
    try:
        return nanotoken.WordPieceTokenizer.from_json(json.dumps(definition))
    except (ValueError, TypeError):
        return None

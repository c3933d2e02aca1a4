"""Sentences -> token ids in flat arrays, with the reference tokenizer or with a fast one that is compared with it."""

import json
import logging
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from prep.tokens.tokenizer import PreparedTokenizer
from shards.errors import UserError
from shards.schema import lengths_to_offsets, token_dtype

# Both tokenizers encode one of this many sentences.
CHECK_EVERY = 100
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
_log = logging.getLogger(__name__)


class EngineMismatchError(Exception):
    """The fast tokenizer gave other ids than the reference. What it encoded must be encoded again without it."""


class Encoder:
    """Encodes sentences without special tokens. With `fast` it uses nanotoken, if that is installed and agrees."""

    def __init__(self, tokenizer: PreparedTokenizer, fast: bool) -> None:
        self._reference = tokenizer.reference
        self._dtype = token_dtype(tokenizer.vocab_size)
        self.unknown_id: int | None = tokenizer.special_ids.get("unk")
        self.needs_leading_space = tokenizer.needs_leading_space
        self._is_special: npt.NDArray[np.bool_] = np.zeros(tokenizer.vocab_size, np.bool_)
        self._is_special[list(tokenizer.special_ids.values())] = True
        self._fast = _fast_tokenizer(tokenizer) if fast else None
        if self._fast is not None and not self._agree(_PROBES):
            _log.warning("nanotoken disagrees with this tokenizer; the reference tokenizer is used")
            self._fast = None

    def encode(self, sentences: Sequence[str], offset: int = 0) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.int64]]:
        """Flat ids [tokens], and the number of tokens of each sentence [sentences].

        A text may spell out a special token; its id becomes the unknown token's, or is left out if there is none.
        `offset` chooses which sentences are compared. Raises EngineMismatchError if one of them differs, and UserError if
        the tokenizer cannot encode a sentence.
        """
        if self._fast is None:
            ids, lengths = self._encode_reference(sentences)
        else:
            if not self._agree(sentences[offset % min(CHECK_EVERY, max(1, len(sentences))) :: CHECK_EVERY]):
                raise EngineMismatchError
            ids, lengths = self._encode_fast(sentences)
        special = self._is_special[ids]
        if special.any() and self.unknown_id is not None:
            ids[special] = self.unknown_id
        elif special.any():
            lengths = np.diff(lengths_to_offsets(~special)[lengths_to_offsets(lengths)])
            ids = ids[~special]
        return ids.astype(self._dtype), lengths

    def _agree(self, sentences: Sequence[str]) -> bool:
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

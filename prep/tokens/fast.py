"""The fast tokenizers: which there are, which tokenizers they know, and how they encode.

Each is an optional package, so it is imported where it is used. What it gives is compared with the reference (`encoder`).
"""

import json
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers.pre_tokenizers import ByteLevel

REFERENCE = "reference"
Encoded = tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]  # flat ids [tokens], tokens of each text [texts]
_NANOTOKEN_CACHE_ENTRIES = 1 << 18
# gigatoken remembers every word that it meets. Beyond this growth of the process, it starts anew.
_GIGATOKEN_CACHE_BYTES = 192 << 20
_PAGE_BYTES = 4096
_STATUS = Path("/proc/self/statm")  # of Linux: pages of the process, those in memory second
# Where it cannot be read, so much text fills the cache, if each word is new.
_GIGATOKEN_CACHE_TEXT = 64 << 20
# The splitting rules of Llama 3 and Qwen 2, which differ in the length of runs of digits. GPT-2's is that of ByteLevel itself.
_SPLITS = re.compile(
    re.escape(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ).replace("DIGITS", r"(\{1,3\})?")
)


class FastTokenizer(Protocol):
    """Encodes texts without special tokens; those that a text spells out are text to it."""

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The ids of all texts."""


def library_for(definition: Mapping[str, Any]) -> str | None:
    """The package that knows this kind of tokenizer, if there is one. `definition`: the content of its tokenizer.json."""
    if definition["model"].get("type", "WordPiece") == "WordPiece":
        return "nanotoken"
    return "gigatoken" if _is_known_byte_level(definition) else None


def installed_engine(definition: Mapping[str, Any]) -> str:
    """The fast tokenizer of this kind with its version, such as `nanotoken 0.1.0`; `reference` if none is installed."""
    library = library_for(definition)
    try:
        return f"{library} {version(library)}" if library else REFERENCE
    except PackageNotFoundError:
        return REFERENCE


def open_fast(definition: Mapping[str, Any]) -> FastTokenizer | None:
    """The same tokenizer in a fast library; None if that is not installed, or does not know this one."""
    library = library_for(definition)
    if library is None:
        return None
    # Without them, a special token that a text spells out is text, as it is to the reference here.
    ordinary = [token for token in definition["added_tokens"] if not token["special"]]
    plain = json.dumps({**definition, "added_tokens": ordinary, "post_processor": None})
    try:
        return _Nanotoken(plain) if library == "nanotoken" else _Gigatoken(plain)
    except (ImportError, ValueError, TypeError):
        return None


class _Nanotoken:
    """WordPiece."""

    def __init__(self, definition: str) -> None:
        import nanotoken

        nanotoken.set_cache_entries(_NANOTOKEN_CACHE_ENTRIES)
        self._tokenizer = nanotoken.WordPieceTokenizer.from_json(definition)

    def encode(self, texts: Sequence[str]) -> Encoded:
        ids, offsets = self._tokenizer.encode_batch(list(texts), add_special_tokens=False, parallel=False)
        return ids, np.diff(offsets)


class _Gigatoken:
    """Byte-level BPE, on the calling thread."""

    def __init__(self, definition: str) -> None:
        self._definition = definition
        self._open()

    def _open(self) -> None:
        from gigatoken.gigatoken_rs import load_hf_json

        self._tokenizer = load_hf_json(self._definition)
        self._first_bytes, self._text_chars = _memory_in_use(), 0

    def encode(self, texts: Sequence[str]) -> Encoded:
        parts = [self._tokenizer.encode(text) for text in texts]  # arrays; its batches would be of another package
        self._text_chars += sum(map(len, texts))
        memory = _memory_in_use()
        is_full = self._text_chars > _GIGATOKEN_CACHE_TEXT if memory is None else self._has_grown(memory)
        if is_full:
            self._open()
        return np.concatenate([np.empty(0, np.uint32), *parts]), np.array([len(part) for part in parts], np.int64)

    def _has_grown(self, memory: int) -> bool:
        return memory - (self._first_bytes or memory) > _GIGATOKEN_CACHE_BYTES


def _memory_in_use() -> int | None:
    """The bytes of this process in memory; None where the system does not tell."""
    if sys.platform != "linux":
        return None
    return int(_STATUS.read_text().split()[1]) * _PAGE_BYTES


def _is_known_byte_level(definition: Mapping[str, Any]) -> bool:
    """Whether gigatoken gives the same ids as the reference for this kind of byte-level BPE, as was tried.

    It ignores fields that it does not know, so nothing may differ from the kinds that were compared.
    """
    model = definition["model"]
    return (
        model.get("type") == "BPE"
        and not any(
            model.get(field) for field in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
        )
        and all(byte in model["vocab"] for byte in ByteLevel.alphabet())
        and _is_nfc(definition.get("normalizer"))
        and _is_known_split(definition.get("pre_tokenizer") or {})
        and all(token["special"] or _is_plain(token, model["vocab"]) for token in definition["added_tokens"])
    )


def _is_nfc(normalizer: Mapping[str, Any] | None) -> bool:
    """Whether it is NFC, or there is none."""
    parts = (normalizer or {"type": "Sequence"}).get("normalizers") or []
    return normalizer is None or normalizer["type"] == "NFC" or (bool(parts) and all(map(_is_nfc, parts)))


def _is_known_split(pre_tokenizer: Mapping[str, Any]) -> bool:
    """Whether words are split by GPT-2's rule, or by one of _SPLITS."""
    if pre_tokenizer.get("type") == "ByteLevel":
        return pre_tokenizer["use_regex"] is True and pre_tokenizer["add_prefix_space"] is False
    parts = pre_tokenizer.get("pretokenizers") or []
    if [part["type"] for part in parts] != ["Split", "ByteLevel"]:
        return False
    split, byte_level = parts
    return (
        bool(_SPLITS.fullmatch(split["pattern"].get("Regex", "")))
        and (split["behavior"], split["invert"]) == ("Isolated", False)
        and (byte_level["use_regex"], byte_level["add_prefix_space"]) == (False, False)
    )


def _is_plain(token: Mapping[str, Any], vocab: Mapping[str, int]) -> bool:
    """Whether an added token is a string of its own that is found as it is."""
    flags = any(token[flag] for flag in ("lstrip", "rstrip", "single_word"))
    return not flags and token["content"] not in vocab and unicodedata.is_normalized("NFC", token["content"])

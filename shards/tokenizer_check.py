"""Bounds on what a tokenizer.json may ask for, checked before a library loads it.

The file may come from a stranger, and a few bytes of it can make the library allocate gigabytes: a padding length, an id, a
chain of replacements, a table of characters, a long template. Nothing of the library is needed here.
"""

import base64
import binascii
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from shards.errors import UserError
from shards.gate.rows import MAX_UNUSED_IDS, MAX_VOCAB_SIZE

MAX_BYTES = 256 << 20
# How many times longer the normalizer may make a text; Unicode's own NFKC makes a character 18 times longer.
MAX_GROWTH = 64
MAX_FRAME_TOKENS = 256
# The flags of BERT's normalizer: field of tokenizer_config.json -> field of the normalizer.
FLAGS = {"do_lower_case": "lowercase", "strip_accents": "strip_accents", "tokenize_chinese_chars": "handle_chinese_chars"}
_COMPONENTS = ("normalizer", "pre_tokenizer", "post_processor")
_LISTS = ("normalizers", "pretokenizers", "processors")


def read_definition(data: bytes, place: str) -> dict[str, Any]:
    """The content of a tokenizer.json, within bounds. `place` is for messages. Raises UserError.

    Truncation, padding and dropout are left as they are: see `lossy_features`.
    """
    if len(data) > MAX_BYTES:
        raise UserError(f"{place}: has {len(data)} bytes, at most {MAX_BYTES} are allowed")
    try:
        definition = json.loads(data, object_pairs_hook=_distinct)
        model, added = definition["model"], definition.get("added_tokens") or []
        ids = [*_vocabulary(model).values(), *(token["id"] for token in added)]
        components = list(_components(definition))
        faults = [*_id_faults(ids), *_growth_faults(components), *_frame_faults(components)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{place}: not a tokenizer.json ({type(error).__name__}: {str(error)[:100]})") from error
    if faults:
        raise UserError(f"{place}: {faults[0]}; use another tokenizer")
    return dict(definition)


def _distinct(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON file. Of a field that is there twice, the library reads both, and only the last is checked here."""
    values = dict(fields)
    if len(values) < len(fields):
        twice = next(name for name, count in Counter(name for name, _ in fields).items() if count > 1)
        raise ValueError(f"the field {twice[:40]!r} is there twice")
    return values


def lossy_features(definition: Mapping[str, Any]) -> list[str]:
    """Which of truncation, padding and dropout a definition has switched on: each makes ids depend on more than the text."""
    features = [name for name in ("truncation", "padding") if definition.get(name) is not None]
    return features + ["dropout"] * (definition["model"].get("dropout") is not None)


def read_flag(config: Mapping[str, Any], field: str, place: str) -> bool | None:
    """One of FLAGS, or what transformers takes if it is absent: true, and for strip_accents None (as do_lower_case)."""
    value = config.get(field)
    if value is not None and type(value) is not bool:
        raise UserError(f"{place}: {field} is {value!r}, must be true or false")
    return True if value is None and field != "strip_accents" else value


def follow_flags(definition: Mapping[str, Any], config: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The definition with the flags that a tokenizer_config.json beside it sets, as transformers sets them.

    It applies to BERT's normalizer only. `place` is that of the configuration. Raises UserError if a flag is no flag.
    """
    normalizer = definition.get("normalizer") or {}
    if normalizer.get("type") != "BertNormalizer":
        return dict(definition)
    flags = {FLAGS[field]: read_flag(config, field, place) for field in FLAGS if config.get(field) is not None}
    if _behaviour(normalizer) == _behaviour(normalizer | flags):
        return dict(definition)
    return dict(definition) | {"normalizer": normalizer | flags}


def _behaviour(normalizer: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    lowercase, strip = normalizer.get("lowercase"), normalizer.get("strip_accents")  # a field that lacks is the library's error
    return lowercase, lowercase if strip is None else strip, normalizer.get("handle_chinese_chars")


def vocabulary(definition: Mapping[str, Any]) -> dict[str, int]:
    """Token -> id, added tokens included."""
    added = definition.get("added_tokens") or []
    return _vocabulary(definition["model"]) | {token["content"]: token["id"] for token in added}


def expand_runs(runs: Iterable[Sequence[int]]) -> list[int]:
    """The ids of runs [first, end), such as a manifest's `unused_ids`: MAX_UNUSED_IDS at most, as the gate checks."""
    return [number for first, end in runs for number in range(first, end)]


def _vocabulary(model: Mapping[str, Any]) -> dict[str, int]:
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        return vocab
    return {token: number for number, (token, _) in enumerate(vocab)}  # Unigram has a list of (token, score)


def _components(definition: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The normalizers, pre-tokenizers and post-processors, sequences of them taken apart."""
    rest = [definition[name] for name in _COMPONENTS if definition.get(name) is not None]
    while rest:
        component = rest.pop()
        parts = [part for name in _LISTS for part in component.get(name) or ()]
        rest += parts
        if not parts:
            yield component


def _id_faults(ids: list[Any]) -> Iterator[str]:
    odd = next((number for number in ids if type(number) is not int or not 0 <= number < MAX_VOCAB_SIZE), None)
    if odd is not None:
        yield f"has the id {odd!r}; ids must be from 0 to {MAX_VOCAB_SIZE - 1}"
    elif ids and max(ids) + 1 - len(set(ids)) > MAX_UNUSED_IDS:
        yield f"has {len(set(ids))} ids up to {max(ids)}; at most {MAX_UNUSED_IDS} below the largest may be unused"


def _growth_faults(components: list[Mapping[str, Any]]) -> Iterator[str]:
    growth = 1.0
    for component in components:
        if component["type"] == "Replace":
            pattern, content = component["pattern"], len(component["content"].encode())
            # A regular expression may match one character, or the empty string beside each character.
            matched = max(1, len(pattern["String"].encode())) if "String" in pattern else 1
            growth *= max(1.0, content / matched) + (pattern.get("Regex") is not None and content > 1)
        elif component["type"] == "Prepend" and len(component["prepend"]) > MAX_GROWTH:
            yield f"prepends {len(component['prepend'])} characters, at most {MAX_GROWTH} are allowed"
        elif component["type"] == "FixedLength" and not component["length"]:
            yield "its FixedLength has the length 0"
        elif component["type"] == "Precompiled":
            yield from _charsmap_faults(component["precompiled_charsmap"])
    if growth > MAX_GROWTH:
        yield f"its replacements make a text up to {growth:.0f} times longer, at most {MAX_GROWTH} times is allowed"


def _charsmap_faults(charsmap: str) -> Iterator[str]:
    """SentencePiece's table: the size of a trie (uint32), the trie, and the replacements, each ended by a NUL."""
    try:
        table = base64.b64decode(charsmap, validate=True)
    except binascii.Error:
        table = b""
    trie_bytes = int.from_bytes(table[:4], "little")
    if len(table) < 4 or trie_bytes % 4 or 4 + trie_bytes > len(table):
        yield "its precompiled_charsmap is damaged"
    elif (longest := max(map(len, table[4 + trie_bytes :].split(b"\0")))) > 4 * MAX_GROWTH:
        yield f"its precompiled_charsmap replaces a character by {longest} bytes, at most {4 * MAX_GROWTH} are allowed"


def _frame_faults(components: list[Mapping[str, Any]]) -> Iterator[str]:
    num_tokens = 0
    for component in components:
        if component["type"] != "TemplateProcessing":
            continue
        special = component["special_tokens"]
        for name in ("single", "pair"):
            for piece in component[name]:
                token = piece["SpecialToken"]["id"] if "SpecialToken" in piece else None
                if token is not None and token not in special:
                    yield f"its template has {token!r}, which its special_tokens lack"
                    return
                num_tokens += 1 if token is None else len(special[token]["ids"])
    if num_tokens > MAX_FRAME_TOKENS:
        yield f"its templates have {num_tokens} tokens, at most {MAX_FRAME_TOKENS} are allowed"

"""What a tokenizer's tokens are for: its special tokens by role, its templates, and which ids start a word.

Nothing is assumed of ids: roles come from what was said beside the tokenizer (tokenizer_config.json), from its own
post-processor, and last from the names in use; templates from what its post-processor does.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from shards.errors import UserError
from shards.mask_units import ENDS_WORD, STARTS_WORD
from shards.template import Template

NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
"""The names in use, BERT's first."""
REQUIRED = ("pad", "mask")
_PROBES = ("a", "1", ".", "the", "\u4e00", "\u0430")
_BYTE_LEVEL_SPACES = ("\u0120", "\u010a", "\u0109", "\u010d")  # a blank, a line feed, a tab, a carriage return


def find_roles(tokenizer: Tokenizer, told: Mapping[str, Any], name: str) -> dict[str, str]:
    """Role -> token. `told` is the content of tokenizer_config.json. Raises UserError that names the roles without a token."""
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    model = json.loads(tokenizer.to_str())["model"]
    single = make_templates(tokenizer).get("single")
    by_template = {"cls": single.prefix[:1], "sep": single.suffix[-1:]} if single else {}
    roles: dict[str, str] = {}
    for role, names in NAMES.items():
        said = told.get(f"{role}_token")
        said = said.get("content") if isinstance(said, Mapping) else said
        if said is not None and (not isinstance(said, str) or said not in vocab):
            raise UserError(f"--tokenizer {name}: its {role}_token is {said!r}, which its vocabulary does not have")
        of_model = model.get("unk_token") if role == "unk" else None
        if role == "unk" and of_model is None and model.get("unk_id") is not None:
            of_model = model["vocab"][model["unk_id"]][0]
        placed = [tokenizer.id_to_token(number) for number in by_template.get(role, ())]
        found = [token for token in (said, *placed, of_model, *names) if token is not None and token in vocab]
        if found:
            roles[role] = found[0]
    missing = [f"{role} token ({' or '.join(NAMES[role])})" for role in REQUIRED if role not in roles]
    if missing:
        raise UserError(
            f"--tokenizer {name}: has no {', no '.join(missing)}; masked-language modelling needs them: choose a tokenizer "
            "of an encoder such as BERT or RoBERTa, or say them in a tokenizer_config.json beside it (mask_token, ...)"
        )
    return roles


def make_templates(tokenizer: Tokenizer) -> dict[str, Template]:
    """`single` and `pair` as the tokenizer's post-processor makes them; those that it does not make are not there."""
    templates: dict[str, Template] = {}
    alone, pair = _probe(tokenizer)
    places = _text_places(pair, (0, 1))
    if places:
        (a_first, a_end), (b_first, b_end) = places
        if a_end < b_first:
            types = [i for i in range(a_end, b_first) if pair.type_ids[i] != pair.type_ids[a_first]]
            templates["pair"] = Template(
                prefix=tuple(pair.ids[:a_first]),
                between=tuple(pair.ids[a_end:b_first]),
                suffix=tuple(pair.ids[b_end:]),
                between_a=(types[0] if types else b_first) - a_end,
            )
    places = _text_places(alone, (0,))
    if places:
        first, end = places[0]
        templates["single"] = Template(tuple(alone.ids[:first]), (), tuple(alone.ids[end:]))
    return templates


def _probe(tokenizer: Tokenizer) -> tuple[Encoding, Encoding]:
    """A text alone and as a pair, of the first probe that has a token."""
    text = next((text for text in _PROBES if tokenizer.encode(text, add_special_tokens=False).ids), "")
    return tokenizer.encode(text), tokenizer.encode(text, text)


def _text_places(encoding: Encoding, sides: tuple[int, ...]) -> list[tuple[int, int]] | None:
    """[first, end) of the text of each side; None where a side is missing or interrupted."""
    places = []
    for side in sides:
        at = [i for i, found in enumerate(encoding.sequence_ids) if found == side]
        if not at or at != list(range(at[0], at[-1] + 1)):
            return None
        places.append((at[0], at[-1] + 1))
    return places


def find_words(tokenizer: Tokenizer) -> npt.NDArray[np.uint8] | None:
    """[vocab_size] word flags of every id (`shards.mask_units`); None where tokens do not show where words begin.

    Words are what the tokenizer marks: pieces behind `##` go on in WordPiece; a blank starts one in byte-level BPE and in
    SentencePiece's vocabularies, so that punctuation belongs to the word that it follows.
    """
    definition = json.loads(tokenizer.to_str())
    model, vocab = definition["model"], tokenizer.get_vocab(with_added_tokens=True)
    flags: npt.NDArray[np.uint8] = np.zeros(max(vocab.values()) + 1, np.uint8)
    kinds = json.dumps([definition["pre_tokenizer"], definition["normalizer"], definition["decoder"]])
    prefix, suffix = model.get("continuing_subword_prefix"), model.get("end_of_word_suffix")
    for token, number in vocab.items():
        if model["type"] == "WordLevel" or (prefix and not token.startswith(prefix)):
            flags[number] = STARTS_WORD
        elif suffix and token.endswith(suffix):
            flags[number] = ENDS_WORD
        elif not prefix and not suffix and token.startswith(_blanks(kinds)):
            flags[number] = STARTS_WORD
    return flags if flags.any() else None


def _blanks(kinds: str) -> tuple[str, ...]:
    """How a blank before a word is written at the beginning of a token."""
    return _BYTE_LEVEL_SPACES if '"ByteLevel"' in kinds else ("\u2581",)


def says_blanks(tokenizer: Tokenizer) -> bool:
    """Whether a word in the middle of a text is encoded otherwise than at its beginning, for the blank before it."""

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return found

    def ends(whole: list[int], part: list[int]) -> bool:
        return bool(part) and whole[-len(part) :] == part

    return any(ends(ids(f". {text}"), ids(f" {text}")) and not ends(ids(f". {text}"), ids(text)) for text in _PROBES)

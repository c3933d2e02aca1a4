"""What the tokens of a tokenizer are for: special tokens by role, templates, and which ids start a word.

Nothing is assumed about ids. Roles come from the configuration beside the tokenizer (tokenizer_config.json), then from its
post-processor, then from the names in use. Templates are what its post-processor does.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer, models

from shards.errors import UserError
from shards.mask_units import ENDS_WORD, STARTS_WORD
from shards.template import Template

# The names in use for each role, BERT's first.
NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
REQUIRED = ("pad", "mask")
_PROBES = ("a", "1", ".", "the", "\u4e00", "\u0430")
_BYTE_LEVEL_SPACES = ("\u0120", "\u010a", "\u0109", "\u010d")  # a space, a line feed, a tab, a carriage return


def find_roles(tokenizer: Tokenizer, config: Mapping[str, Any], name: str) -> dict[str, str]:
    """Role -> token. `config` is the content of tokenizer_config.json, or empty.

    Raises UserError that names the roles without a token.
    """

    def is_known(token: Any) -> bool:
        return isinstance(token, str) and tokenizer.token_to_id(token) is not None

    single = make_templates(tokenizer).get("single")
    by_template = {"cls": single.prefix[:1], "sep": single.suffix[-1:]} if single else {}
    roles: dict[str, str] = {}
    for role, names in NAMES.items():
        placed = [tokenizer.id_to_token(number) for number in by_template.get(role, ())]
        of_model = [_unknown_token(tokenizer)] if role == "unk" else []
        configured = configured_token(config, role)
        if configured is not None and not is_known(configured):
            raise UserError(f"--tokenizer {name}: its {role}_token is {configured!r}, which its vocabulary does not have")
        candidates = (configured, *placed, *of_model, *names)
        token = next(filter(is_known, candidates), None)
        if token is not None:
            roles[role] = token
    missing = [f"{role} token ({' or '.join(NAMES[role])})" for role in REQUIRED if role not in roles]
    if missing:
        raise UserError(
            f"--tokenizer {name}: has no {', no '.join(missing)}, which masked-language modelling needs; choose the tokenizer "
            "of an encoder such as BERT or RoBERTa, or name the tokens in a tokenizer_config.json beside it (mask_token, ...)"
        )
    return roles


def configured_token(config: Mapping[str, Any], role: str) -> Any:
    """The token that tokenizer_config.json names for a role, as a string or as an object with `content`; None if absent."""
    token = config.get(f"{role}_token")
    return token.get("content") if isinstance(token, Mapping) else token


def _unknown_token(tokenizer: Tokenizer) -> str | None:
    """The token that the model gives for unknown text."""
    if isinstance(tokenizer.model, models.Unigram):  # it has an index, which is in its definition only
        model = json.loads(tokenizer.to_str())["model"]
        return None if model["unk_id"] is None else str(model["vocab"][model["unk_id"]][0])
    token: str | None = tokenizer.model.unk_token
    return token


def make_templates(tokenizer: Tokenizer) -> dict[str, Template]:
    """`single` and `pair`, as the tokenizer's post-processor frames texts. One that it does not make is left out."""
    templates: dict[str, Template] = {}
    single, pair = _probe(tokenizer)
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
    places = _text_places(single, (0,))
    if places:
        first, end = places[0]
        templates["single"] = Template(tuple(single.ids[:first]), (), tuple(single.ids[end:]))
    return templates


def typed_post_processor(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """The post-processor of a tokenizer.json that frames texts in the same way and gives segment B token type 1.

    None if the tokenizer does so itself, or does not make pairs. RoBERTa's gives type 0 to both segments, but the trainer
    trains with types 0 and 1.
    """
    templates = make_templates(tokenizer)
    if templates.keys() != {"single", "pair"}:
        return None
    single, pair = templates["single"], templates["pair"]
    encoding = _probe(tokenizer)[1]
    b_start = encoding.sequence_ids.index(1) - (len(pair.between) - pair.between_a)
    if encoding.type_ids == [int(i >= b_start) for i in range(len(encoding.ids))]:
        return None

    def special(ids: Sequence[int], token_type: int) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": tokenizer.id_to_token(number), "type_id": token_type}} for number in ids]

    def text(side: str, token_type: int) -> list[dict[str, Any]]:
        return [{"Sequence": {"id": side, "type_id": token_type}}]

    a_part = special(pair.prefix, 0) + text("A", 0) + special(pair.between[: pair.between_a], 0)
    b_part = special(pair.between[pair.between_a :], 1) + text("B", 1) + special(pair.suffix, 1)
    ids = sorted({*single.prefix, *single.suffix, *pair.prefix, *pair.between, *pair.suffix})
    names = {number: tokenizer.id_to_token(number) for number in ids}
    return {
        "type": "TemplateProcessing",
        "single": special(single.prefix, 0) + text("A", 0) + special(single.suffix, 0),
        "pair": a_part + b_part,
        "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]} for number, name in names.items()},
    }


def _probe(tokenizer: Tokenizer) -> tuple[Encoding, Encoding]:
    """A text alone and as a pair with itself: the first probe for which the tokenizer has a token."""
    text = next((text for text in _PROBES if tokenizer.encode(text, add_special_tokens=False).ids), "")
    return tokenizer.encode(text), tokenizer.encode(text, text)


def _text_places(encoding: Encoding, sides: tuple[int, ...]) -> list[tuple[int, int]] | None:
    """[first, end) of the text of each side; None if a side is missing or interrupted."""
    places = []
    for side in sides:
        positions = [i for i, sequence_id in enumerate(encoding.sequence_ids) if sequence_id == side]
        if not positions or positions != list(range(positions[0], positions[-1] + 1)):
            return None
        places.append((positions[0], positions[-1] + 1))
    return places


def find_words(definition: Mapping[str, Any], vocab: Mapping[str, int]) -> npt.NDArray[np.uint8] | None:
    """[vocab_size] word flags of every id (`shards.mask_units`); None if tokens do not show where words start.

    `definition`: the content of tokenizer.json. `vocab`: token -> id, added tokens included.

    A word is what the tokenizer marks. In WordPiece, pieces that begin with `##` continue a word. In byte-level BPE and in
    SentencePiece vocabularies a leading space starts a word, so punctuation belongs to the word before it.
    """
    model = definition["model"]
    flags: npt.NDArray[np.uint8] = np.zeros(max(vocab.values()) + 1, np.uint8)
    components = json.dumps([definition["pre_tokenizer"], definition["normalizer"], definition["decoder"]])
    spaces = _BYTE_LEVEL_SPACES if '"ByteLevel"' in components else ("\u2581",)
    prefix, suffix = model.get("continuing_subword_prefix"), model.get("end_of_word_suffix")
    for token, number in vocab.items():
        if model["type"] == "WordLevel" or (prefix and not token.startswith(prefix)):
            flags[number] = STARTS_WORD
        elif suffix and token.endswith(suffix):
            flags[number] = ENDS_WORD
        elif not prefix and not suffix and token.startswith(spaces):
            flags[number] = STARTS_WORD
    return flags if flags.any() else None


def needs_leading_space(tokenizer: Tokenizer) -> bool:
    """Whether a sentence after another one must be encoded with the space before it.

    It must if the ids of a word depend on that space, and the tokenizer does not add it to each text by itself.
    """

    def ids(text: str) -> list[int]:
        numbers: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return numbers

    def ends_with(whole: list[int], part: list[int]) -> bool:
        return bool(part) and whole[-len(part) :] == part

    return any(ends_with(ids(f". {text}"), ids(f" {text}")) and not ends_with(ids(f". {text}"), ids(text)) for text in _PROBES)

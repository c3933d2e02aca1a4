"""tokenizer_config.json: followed where it comes with a tokenizer, and written for transformers' AutoTokenizer.

transformers makes a BertTokenizer from the vocabulary and the fields of this file alone; it takes any other tokenizer from
its tokenizer.json as it is. Both ways must give the ids that the data were made with.
"""

from collections.abc import Mapping
from typing import Any

from shards.errors import UserError
from shards.template import Template
from shards.tokenizer_check import FLAGS, read_flag

DEFAULT_LIMIT = 512
MAX_LIMIT = 1 << 30  # "no limit" is 1e30 in transformers
# Classes that make the tokens of BertTokenizer from a vocab.txt.
BERT_CLASSES = ("Bert", "DistilBert", "Electra", "MobileBert", "ConvBert", "SqueezeBert", "LayoutLM", "Lxmert")
_SIDES = ("left", "right")
_INPUTS = ("input_ids", "token_type_ids", "attention_mask")
# Roles of other models. RoBERTa's tokenizer has them beside cls and sep, with the same tokens.
_OTHER_ROLES = ("bos_token", "eos_token")


def is_bert_class(config: Mapping[str, Any]) -> bool:
    """Whether the configuration names a class that makes the tokens of BertTokenizer."""
    return str(config.get("tokenizer_class", "")).removesuffix("Fast").removesuffix("Tokenizer") in BERT_CLASSES


def bert_flags(config: Mapping[str, Any], place: str) -> dict[str, Any]:
    """do_lower_case, strip_accents and tokenize_chinese_chars for a vocab.txt.

    Raises UserError if the configuration asks for what BertTokenizer does not do.
    """
    name = config.get("tokenizer_class")
    if name is not None and not is_bert_class(config):
        raise UserError(
            f"{place}: tokenizer_class is {name!r}, and a vocab.txt alone is read as BertTokenizer; save that tokenizer with "
            "transformers as a tokenizer.json, or choose another"
        )
    basic = {"word_tokenizer_type": "basic", "subword_tokenizer_type": "wordpiece", "do_basic_tokenize": True}
    for field, value in basic.items():
        if config.get(field, value) != value:
            raise UserError(f"{place}: {field} is {config[field]!r}, and only {value!r} is possible; choose another tokenizer")
    if config.get("never_split"):
        raise UserError(f"{place}: never_split is {config['never_split']!r}, which is not possible; remove it")
    return {field: read_flag(config, field, place) for field in FLAGS}


def kept_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a given configuration that go into the saved one: limits and defaults that change no id."""
    limit = config.get("model_max_length")
    options: dict[str, Any] = {}
    if isinstance(limit, int | float) and 1 <= limit <= MAX_LIMIT:
        options["model_max_length"] = int(limit)
    for field in ("padding_side", "truncation_side"):
        if config.get(field) in _SIDES:
            options[field] = config[field]
    if type(config.get("clean_up_tokenization_spaces")) is bool:
        options["clean_up_tokenization_spaces"] = config["clean_up_tokenization_spaces"]
    for name in _OTHER_ROLES:
        token = config.get(name)
        content = token.get("content") if isinstance(token, Mapping) else token
        if isinstance(content, str):
            options[name] = content
    inputs = config.get("model_input_names")
    if isinstance(inputs, list) and "input_ids" in inputs and all(name in _INPUTS for name in inputs):
        options["model_input_names"] = inputs
    return options


def make_config(
    definition: Mapping[str, Any], roles: Mapping[str, str], options: Mapping[str, Any], is_bert: bool
) -> dict[str, Any]:
    """The content of tokenizer_config.json. `is_bert`: BertTokenizer makes the same ids, see `is_bert_tokenizer`."""
    config: dict[str, Any] = {
        "tokenizer_class": "BertTokenizer" if is_bert else "PreTrainedTokenizerFast",
        "model_max_length": DEFAULT_LIMIT,
        **{f"{role}_token": token for role, token in roles.items()},
    }
    if is_bert:
        normalizer = definition["normalizer"]
        config["do_lower_case"] = normalizer["lowercase"]
        if normalizer["strip_accents"] is not None:
            config["strip_accents"] = normalizer["strip_accents"]
        if not normalizer["handle_chinese_chars"]:
            config["tokenize_chinese_chars"] = False
    else:
        # The class itself gives no token types.
        config["model_input_names"] = list(_INPUTS)
    # A token that is not special would become so, and a text that spells it out would have other ids.
    special = {token["content"] for token in definition["added_tokens"] if token["special"]}
    return config | {name: value for name, value in options.items() if name not in _OTHER_ROLES or value in special}


def is_bert_tokenizer(
    definition: Mapping[str, Any], ids: Mapping[str, int], templates: Mapping[str, Template], is_gapless: bool
) -> bool:
    """Whether transformers' BertTokenizer makes the same ids from the vocabulary and three flags. `ids`: role -> id."""
    model, normalizer = definition["model"], definition["normalizer"] or {}
    cls, sep = (ids.get("cls", -1),), (ids.get("sep", -1),)
    return (
        is_gapless
        and model.get("type", "WordPiece") == "WordPiece"
        and (model["continuing_subword_prefix"], model["max_input_chars_per_word"]) == ("##", 100)
        and model["vocab"].get(model["unk_token"]) == ids.get("unk")
        and (normalizer.get("type"), normalizer.get("clean_text")) == ("BertNormalizer", True)
        and (definition["pre_tokenizer"] or {}).get("type") == "BertPreTokenizer"
        and all(token["special"] and token["id"] in ids.values() for token in definition["added_tokens"])
        and not any(token[side] for token in definition["added_tokens"] for side in ("lstrip", "rstrip", "single_word"))
        and templates == {"single": Template(cls, (), sep), "pair": Template(cls, sep, sep, 1)}
    )

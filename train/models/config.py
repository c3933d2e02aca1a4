"""A model's configuration: read from config.json, checked, and compared with the data set."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from shards.errors import UserError
from shards.manifest import Manifest
from train.models.families import FAMILIES, family_of

_MAX_LAYERS = 1000
# Fields of config.json that are passed over: attentions, which may be code on a hub; how transformers' own forward pass splits
# its work and what it returns; and the labels of classifiers, of which transformers makes a table at once.
_IGNORED_KEYS = (
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "chunk_size_feed_forward",
    "return_dict",
    "torchscript",
    "output_attentions",
    "output_hidden_states",
    "num_labels",
    "id2label",
    "label2id",
)


def read_config(path: Path) -> PreTrainedConfig:
    """The configuration in a file. Raises UserError."""
    return parse_config(path.read_bytes(), f"--model {path}")


def parse_config(data: bytes, place: str) -> PreTrainedConfig:
    """The configuration in the bytes of a config.json. Raises UserError, which begins with `place`."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON: {error}") from error
    is_config = isinstance(values, dict) and {"hidden_size", "num_hidden_layers"} <= values.keys()
    if not is_config or values.get("model_type", "bert") != "bert":
        raise UserError(f"{place}: is not the configuration of a BERT model (hidden_size, num_hidden_layers, ...)")
    return make_config(values, place)


def make_config(values: dict[str, Any], place: str) -> PreTrainedConfig:
    """The configuration with these fields. Raises UserError, which begins with `place`."""
    kind = FAMILIES[values.get("model_type", "bert")].model.config_class
    assert kind is not None
    try:
        config = kind.from_dict({name: value for name, value in values.items() if name not in _IGNORED_KEYS})
    except Exception as error:  # the library checks values with errors of many kinds
        raise UserError(f"{place}: transformers refuses the configuration: {' '.join(str(error).split())}") from error
    return config


def set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    """Sets the dropout of hidden states and of attention weights."""
    config.update({"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout})


def new_encoder(place: str, config: PreTrainedConfig) -> PreTrainedModel:
    """The model of a configuration, with random weights. Raises UserError, which begins with `place`."""
    # A configuration may name an attention on the hub, which transformers would fetch and run. Ours is set later.
    config._attn_implementation = "sdpa"
    try:
        return family_of(config).model(config)
    except Exception as error:  # values that contradict each other fail in many ways
        raise UserError(f"{place}: its configuration makes no model ({error!r}); correct it") from error


def longest_sequence(manifest: Manifest) -> int:
    """Tokens of the longest sequence of the data set, which may be far below the setting `max_seq_len`."""
    return max(split.totals()["max_sequence_tokens"] for split in manifest.splits.values())


def check_fit(name: str, config: PreTrainedConfig, manifest: Manifest) -> None:
    """Raises UserError when the model cannot be trained on the data set."""
    vocab_size, longest = manifest.tokenizer["vocab_size"], longest_sequence(manifest)
    if vocab_size > config.vocab_size:
        raise UserError(
            f"--model {name}: has {config.vocab_size} ids, the data set has {vocab_size}; build it with the model's tokenizer"
        )
    if longest > config.max_position_embeddings:
        raise UserError(
            f"--model {name}: has {config.max_position_embeddings} positions, the data set has sequences of up to {longest} "
            f"tokens; build it with --max-seq-len {config.max_position_embeddings} or less"
        )
    if config.is_decoder or not 1 <= config.num_hidden_layers <= _MAX_LAYERS:
        raise UserError(
            f"--model {name}: must be an encoder (is_decoder false) of 1 to {_MAX_LAYERS} layers; correct its config.json"
        )
    pad_id = manifest.tokenizer["special_ids"]["pad"]
    if config.pad_token_id not in (None, pad_id):
        raise UserError(
            f"--model {name}: its pad_token_id is {config.pad_token_id}, the data set's {pad_id}; correct its config.json"
        )
    if config.type_vocab_size < 2:
        raise UserError(f"--model {name}: has {config.type_vocab_size} token types, sentence pairs need 2")

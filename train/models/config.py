"""A model's configuration: read from config.json, checked, and compared with the data set."""

import json
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from shards import storage
from shards.errors import UserError
from shards.gate.manifest import SINGLE_SEGMENT
from shards.manifest import Manifest
from shards.memory import require_memory
from train.models.families import FAMILIES, UNPACKABLE, Family, family_of, max_positions, num_token_types, unused_parameters

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
# The names that families have for the dropout of hidden states, first, of attention weights, and of ALBERT's pair head.
DROPOUTS = (
    "hidden_dropout_prob",
    "dropout",
    "embedding_dropout",
    "mlp_dropout",
    "attention_probs_dropout_prob",
    "attention_dropout",
    "classifier_dropout_prob",
)
# What other libraries call the size of a model, and how fast its positions turn. A configuration with such a field that
# transformers does not read would be another model, of the default size.
_FOREIGN_KEYS = ("n_embd", "n_layer", "n_head", "n_inner", "d_model", "num_layers", "ffn_dim", "rotary_emb_base")


def read_config(path: Path) -> PreTrainedConfig:
    """The configuration in a file. Raises UserError."""
    return parse_config(storage.read_small(str(path)), f"--model {path}")


def parse_config(data: bytes, place: str) -> PreTrainedConfig:
    """The configuration in the bytes of a config.json. Raises UserError, which begins with `place`."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON: {error}") from error
    is_bert = isinstance(values, dict) and {"hidden_size", "num_hidden_layers"} <= values.keys()  # the first ones had no type
    if not is_bert and not (isinstance(values, dict) and "model_type" in values):
        raise UserError(f"{place}: is not the configuration of a model (model_type, hidden_size, num_hidden_layers, ...)")
    return make_config(values, place)


def make_config(values: dict[str, Any], place: str) -> PreTrainedConfig:
    """The configuration with these fields. Raises UserError, which begins with `place`."""
    family = _known_family(values.get("model_type", "bert"), place)
    try:
        kind = family.model_class().config_class
    except AttributeError as error:
        raise UserError(
            f"{place}: transformers {transformers.__version__} has no {family.model}; install a newer one"
        ) from error
    try:
        config: PreTrainedConfig = kind.from_dict({name: value for name, value in values.items() if name not in _IGNORED_KEYS})
    except Exception as error:  # the library checks values with errors of many kinds
        raise UserError(f"{place}: transformers refuses the configuration: {' '.join(str(error).split())}") from error
    foreign = next((name for name in _FOREIGN_KEYS if name in values and not hasattr(kind(), name)), None)
    if foreign is not None:
        raise UserError(
            f"{place}: has the field {foreign}, which transformers' {kind.__name__} does not read: the model would be "
            "another one; convert the configuration to transformers' own fields (hidden_size, num_hidden_layers, ...)"
        )
    _check_fields(config, family, place)
    return config


def _check_fields(config: PreTrainedConfig, family: Family, place: str) -> None:
    """What transformers does not check."""
    if not isinstance(config.vocab_size, int):
        raise UserError(f"{place}: its vocab_size is {config.vocab_size!r}, must be a number; correct it")
    if not 1 <= getattr(config, "inner_group_num", 1) <= _MAX_LAYERS:
        raise UserError(
            f"{place}: its inner_group_num is {config.inner_group_num}, must be from 1 to {_MAX_LAYERS}; correct it"
        )
    if family.skips_positions and not isinstance(config.pad_token_id, int):
        raise UserError(f"{place}: its pad_token_id is {config.pad_token_id!r}, and its positions begin after it; correct it")
    rotary = getattr(config, "rope_parameters", None)
    if rotary is not None:
        _check_rotary(rotary, place)
        return
    # transformers passes over kinds of positions that it no longer has: the model would be another one. Models with rotary
    # positions never read this field (mmBERT's holds a word of its own).
    positions = getattr(config, "position_embedding_type", "absolute")
    if positions != "absolute" and (config.model_type, positions) != ("esm", "rotary"):
        raise UserError(
            f"{place}: its position_embedding_type is {positions!r}, which transformers {transformers.__version__} lacks"
        )


def _check_rotary(parameters: dict[str, Any], place: str) -> None:
    kinds = (value.get("rope_type") for value in (parameters, *parameters.values()) if isinstance(value, dict))
    if "longrope" in kinds:
        raise UserError(
            f"{place}: its rope_type is 'longrope', which turns positions by the longest sequence of a batch; use another type"
        )


def _known_family(model_type: object, place: str) -> Family:
    name = str(model_type)
    if name in UNPACKABLE:
        raise UserError(
            f"{place}: is a {name} model, which cannot be trained on packed rows: {UNPACKABLE[name]}; "
            f"the families are {', '.join(FAMILIES)}"
        )
    if name not in FAMILIES:
        raise UserError(f"{place}: is a {name[:100]} model, and the families are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    """Sets every dropout of the model. Negative: they stay the model's own."""
    if dropout >= 0.0:
        config.update(dict.fromkeys((name for name in DROPOUTS if hasattr(config, name)), dropout))


def dropout_of(config: PreTrainedConfig) -> float:
    """The dropout of hidden states, or of attention weights where there is no other."""
    return next(float(getattr(config, name)) for name in DROPOUTS if hasattr(config, name))


def new_encoder(place: str, config: PreTrainedConfig) -> PreTrainedModel:
    """The model of a configuration, with random weights. Raises UserError, which begins with `place`."""
    embedded = getattr(config, "embedding_size", config.hidden_size)
    num_embeddings = config.vocab_size + config.max_position_embeddings
    require_memory(
        4 * num_embeddings * embedded, f"{place}: a table of {num_embeddings} ids and positions", "use a smaller model"
    )
    return build_encoder(place, config)


def build_encoder(place: str, config: PreTrainedConfig) -> PreTrainedModel:
    """The same without a look at the memory, for torch's meta device."""
    # A configuration may name an attention on the hub, which transformers would fetch and run. Ours is set later.
    config._attn_implementation = "sdpa"
    try:
        encoder: PreTrainedModel = family_of(config).model_class()(config)
    except Exception as error:  # values that contradict each other fail in many ways
        raise UserError(f"{place}: its configuration makes no model ({error!r}); correct it") from error
    freeze_unused(encoder)
    return encoder


def freeze_unused(encoder: PreTrainedModel) -> None:
    """Tells DDP which parameters get no gradient: it would wait for one."""
    for parameter in unused_parameters(encoder):
        parameter.requires_grad_(False)


def longest_sequence(manifest: Manifest) -> int:
    """Tokens of the longest sequence of the data set, which may be far below the setting `max_seq_len`."""
    return max(split.totals()["max_sequence_tokens"] for split in manifest.splits.values())


def check_fit(name: str, config: PreTrainedConfig, manifest: Manifest, ignores_pairs: bool = False) -> None:
    """Raises UserError when the model cannot be trained on the data set."""
    num_layers = max(config.num_hidden_layers, getattr(config, family_of(config).num_layers))
    if getattr(config, "is_decoder", False) or not 1 <= config.num_hidden_layers <= num_layers <= _MAX_LAYERS:
        raise UserError(
            f"--model {name}: must be an encoder (is_decoder false) of 1 to {_MAX_LAYERS} layers; correct its config.json"
        )
    _check_tokens(name, config, manifest)
    if has_pairs(manifest) and not ignores_pairs:
        _check_pairs(name, config)


def has_pairs(manifest: Manifest) -> bool:
    """Whether the data set's sequences are pairs, with a label each."""
    return manifest.settings["pairing"] not in SINGLE_SEGMENT


def _check_tokens(name: str, config: PreTrainedConfig, manifest: Manifest) -> None:
    """The vocabulary, the special tokens and the positions."""
    vocab_size, longest = manifest.tokenizer["vocab_size"], longest_sequence(manifest)
    if vocab_size > config.vocab_size:
        raise UserError(
            f"--model {name}: has {config.vocab_size} ids, the data set has {vocab_size}; build it with the model's tokenizer"
        )
    for role in ("pad", "mask") if family_of(config).embed else ("pad",):  # ESM looks for the mask
        own_id, id_of_data = getattr(config, f"{role}_token_id", None), manifest.tokenizer["special_ids"][role]
        if own_id not in (None, id_of_data):
            raise UserError(
                f"--model {name}: its {role}_token_id is {own_id}, the data set's {id_of_data}; build the data set with the "
                "model's tokenizer, or correct its config.json"
            )
    if longest > max_positions(config):
        raise UserError(
            f"--model {name}: has {max_positions(config)} positions, the data set has sequences of up to {longest} "
            f"tokens; build it with --max-seq-len {max_positions(config)} or less"
        )


def _check_pairs(name: str, config: PreTrainedConfig) -> None:
    if family_of(config).pair_head is None:
        raise UserError(
            f"--model {name}: a {config.model_type} model has no head for the data set's sentence pairs; build it with "
            "--pairing none or document, or set --ignore-pairs to train on masked tokens alone"
        )
    if num_token_types(config) < 2:
        raise UserError(f"--model {name}: has {config.type_vocab_size} token types, sentence pairs need 2")

"""A small random model of each family, with the switches that its published models have."""

import json
from pathlib import Path
from typing import Any

import torch
from datasets_of_rows import ROW_TOKENS
from rows_of_ids import SPECIAL, VOCAB_SIZE
from transformers import AutoConfig, PreTrainedModel

from train.models.families import FAMILIES

_COMMON = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": ROW_TOKENS + 2,
    "pad_token_id": SPECIAL["pad"],
    "initializer_range": 0.2,  # so that attention is far from uniform
}
_ROBERTA = {"type_vocab_size": 1, "layer_norm_eps": 1e-5}
# What is particular about the published models, by model_type. A new family needs a line here.
SWITCHES: dict[str, dict[str, Any]] = {
    "bert": {},
    "ernie": {"use_task_id": True, "task_type_vocab_size": 3},
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "xlm-roberta-xl": _ROBERTA,
    "camembert": _ROBERTA,
    "roberta-prelayernorm": _ROBERTA,
    "albert": {"embedding_size": 16, "num_hidden_groups": 1, "inner_group_num": 1, "classifier_dropout_prob": 0.0},
    "electra": {"embedding_size": 16},
    "distilbert": {"sinusoidal_pos_embds": False},
    "modernbert": {"local_attention": 8},  # attention to 4 tokens on each side in two layers of three
    "eurobert": {"num_key_value_heads": 2},
    "nomic_bert": {},
    "esm": {"position_embedding_type": "rotary", "token_dropout": True, "mask_token_id": SPECIAL["mask"]},
}
# Fields that have other names.
_NAMES = {
    "distilbert": {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
    }
}
# Every name that a family has for a dropout.
_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
)


def fields_of(model_type: str) -> dict[str, Any]:
    names = _NAMES.get(model_type, {})
    common = {names.get(name, name): value for name, value in _COMMON.items()}
    return common | dict.fromkeys(_DROPOUTS, 0.0) | SWITCHES[model_type]


def small_encoder(model_type: str, attention: str = "sdpa", seed: int = 0, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **fields_of(model_type) | changes)
    config._attn_implementation = attention
    encoder: PreTrainedModel = FAMILIES[model_type].model_class()(config)
    return encoder.train()


def write_config(path: Path, model_type: str, **changes: Any) -> Path:
    """A config.json of such a model."""
    path.write_text(json.dumps({"model_type": model_type} | fields_of(model_type) | changes))
    return path

"""Models from scratch by name: `--model base`, `--model modernbert-small`.

The sizes of BERT's short names are its own two and the smaller ones of Turc et al. 2019 (arXiv:1908.08962). `base` and `large`
of the other families, and ESM-2's, are the published ones. Their `tiny` and `small` are for tests and for CPUs.
"""

from typing import Any

from transformers import PreTrainedConfig

from shards.manifest import Manifest
from train.models.config import longest_sequence, make_config

# Size -> layers, features, features in the middle of a feed-forward layer. Heads have 64 features.
_BERT = {
    "tiny": (2, 128, 512),
    "mini": (4, 256, 1024),
    "small": (4, 512, 2048),
    "medium": (8, 512, 2048),
    "base": (12, 768, 3072),
    "large": (24, 1024, 4096),
}
_LIKE_BERT = {size: _BERT[size] for size in ("tiny", "small", "base", "large")}
_MODERNBERT = {"tiny": (3, 128, 192), "small": (7, 384, 576), "base": (22, 768, 1152), "large": (28, 1024, 2624)}
_ESM = {"tiny": (2, 128, 512), "8m": (6, 320, 1280), "35m": (12, 480, 1920), "150m": (30, 640, 2560)}
_FAMILIES = {
    "bert": ("bert", _BERT),
    "roberta": ("roberta", _LIKE_BERT),
    "albert": ("albert", _LIKE_BERT),
    "modernbert": ("modernbert", _MODERNBERT),
    "esm2": ("esm", _ESM),
}
# What is published of each family besides its size, where transformers' default is another value.
_SWITCHES: dict[str, dict[str, Any]] = {
    "bert": {"max_position_embeddings": 512},
    "roberta": {"max_position_embeddings": 512, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "albert": {"max_position_embeddings": 512, "embedding_size": 128},
    "modernbert": {"max_position_embeddings": 8192},
    "esm": {
        "max_position_embeddings": 1024,
        "position_embedding_type": "rotary",
        "token_dropout": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": 1e-5,
    },
}
_HEAD_FEATURES = {"8m": 16, "35m": 24, "150m": 32}  # ESM-2 has 20 heads in each of these

# Every name that `--model` knows: -> family, layers, features, features in the middle, features per head.
SIZES = {
    f"{prefix}-{size}": (family, *shape, _HEAD_FEATURES.get(size, 64))
    for prefix, (family, shapes) in _FAMILIES.items()
    for size, shape in shapes.items()
} | {size: ("bert", *shape, 64) for size, shape in _BERT.items()}


def config_of_size(name: str, manifest: Manifest) -> PreTrainedConfig:
    """The configuration of a named size, with the data set's vocabulary and special tokens, and positions for its sequences."""
    model_type, layers, features, wide, head_features = SIZES[name]
    ids = manifest.tokenizer["special_ids"]
    values = {
        **_SWITCHES[model_type],
        "model_type": model_type,
        "vocab_size": manifest.tokenizer["vocab_size"],
        "hidden_size": features,
        "num_hidden_layers": layers,
        "num_attention_heads": features // head_features,
        "intermediate_size": wide,
        "pad_token_id": ids["pad"],
    }
    if model_type != "bert":  # BERT's own configuration names no others
        values |= {"bos_token_id": ids["cls"], "eos_token_id": ids["sep"]}
    if model_type in ("modernbert", "esm"):
        values |= {"cls_token_id": ids["cls"], "sep_token_id": ids["sep"], "mask_token_id": ids["mask"]}
    skipped = ids["pad"] + 1 if model_type in ("roberta", "esm") else 0
    positions = max(values["max_position_embeddings"], longest_sequence(manifest))
    return make_config(values | {"max_position_embeddings": positions + skipped}, f"--model {name}")

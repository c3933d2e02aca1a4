"""Models from scratch by name: `--model base`."""

from transformers import BertConfig

from shards.manifest import Manifest
from train.models.config import longest_sequence

# Layers and features: BERT's own two sizes and the smaller ones of Turc et al. 2019 (arXiv:1908.08962). Heads of 64 features.
SHAPES = {"tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512), "base": (12, 768), "large": (24, 1024)}


def config_of_size(name: str, manifest: Manifest) -> BertConfig:
    """The configuration of a named size, with the data set's vocabulary."""
    layers, features = SHAPES[name]
    return BertConfig(
        vocab_size=manifest.tokenizer["vocab_size"],
        hidden_size=features,
        num_hidden_layers=layers,
        num_attention_heads=features // 64,
        intermediate_size=4 * features,
        max_position_embeddings=max(512, longest_sequence(manifest)),
        pad_token_id=manifest.tokenizer["special_ids"]["pad"],
    )

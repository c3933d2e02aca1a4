"""`--model`: an encoder from scratch, by size or configuration, or pretrained weights; checked against the data set.

name -> configuration -> fits the data set? same tokenizer? -> weights -> the model, with its heads
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from shards import storage
from shards.errors import UserError
from shards.manifest import Manifest
from shards.randomness import Purpose, address
from train.checkpoint import CONFIG, copy_tensors
from train.data.tokenizer import compare_tokenizers
from train.models.config import (
    DROPOUTS,
    build_encoder,
    check_fit,
    has_pairs,
    new_encoder,
    parse_config,
    read_config,
    set_dropout,
)
from train.models.families import family_of, num_token_types, saved_tensors
from train.models.pretrained import pretrained_config, pretrained_weights
from train.models.sizes import SIZES, config_of_size


def quiet() -> None:
    """Silences transformers: the commands report on loading themselves, in one line."""
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # here and below: transformers' own
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def make_encoder(
    name: str, manifest: Manifest, data_url: str, dropout: float, seed: int, ignores_pairs: bool = False
) -> tuple[PreTrainedModel, list[str]]:
    """The model of `--model`, and messages for the user. A negative `dropout` leaves the model's own.

    Raises UserError for an unknown name, for weights of another kind, and when model and data set do not fit.
    """
    torch.manual_seed(int(address(seed, Purpose.INITIAL_WEIGHTS)) >> 1)
    path = Path(name)
    if name in SIZES or path.is_file():
        config = config_of_size(name, manifest) if name in SIZES else read_config(path)
        set_dropout(config, dropout)
        check_fit(name, config, manifest, ignores_pairs)
        encoder = new_encoder(f"--model {name}", config)
        return encoder, [f"{name}: {_millions(encoder)} parameters, from scratch", *_on_pairs(name, config, manifest)]
    config = pretrained_config(name)
    set_dropout(config, dropout)
    # First: with another tokenizer, the ids of special tokens differ too, and the configuration is not to blame.
    messages = list(compare_tokenizers(name, data_url, manifest))
    check_fit(name, config, manifest, ignores_pairs)
    encoder, fresh = pretrained_weights(name, config)
    from_scratch = f"; from scratch: {', '.join(fresh)}" if fresh else ""
    messages.append(f"{name}: {_millions(encoder)} parameters, pretrained{from_scratch}")
    return encoder, [*messages, *_on_pairs(name, config, manifest)]


def restored_encoder(config_json: bytes, tensors: dict[str, torch.Tensor], url: str) -> PreTrainedModel:
    """The model of the checkpoint at `url`, from its config.json and its tensors. Raises UserError when they do not fit."""
    place = storage.join(url, CONFIG)
    config = parse_config(config_json, place)
    # Layers are counted, and shapes compared on torch's meta device, before memory is allocated for what the file asks.
    family = family_of(config)
    prefix = f"{family.model_class().base_model_prefix}.{family.layers}."
    num_layers = len({name[len(prefix) :].partition(".")[0] for name in tensors if name.startswith(prefix)})
    if getattr(config, family.num_layers) != num_layers:
        raise UserError(
            f"{place}: {family.num_layers} is {getattr(config, family.num_layers)}, the checkpoint has weights of {num_layers}"
        )
    with torch.device("meta"):
        shapes = saved_tensors(build_encoder(place, config))
    for name, parameter in shapes.items():
        if name not in tensors or tensors[name].shape != parameter.shape:
            raise UserError(f"{place}: needs {name} of shape {list(parameter.shape)}, which the checkpoint does not have")
    encoder = new_encoder(place, config)
    copy_tensors(saved_tensors(encoder), tensors, url)
    return encoder


def change_dropout(encoder: PreTrainedModel, dropout: float) -> None:
    """Changes the dropout of a model that was made with one, to a number that is not negative."""
    set_dropout(encoder.config, dropout)
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        for name in DROPOUTS:
            if isinstance(getattr(module, name, None), float):  # given to the attention function
                setattr(module, name, dropout)


def rope_theta_of(config: PreTrainedConfig) -> float:
    """The base of the rotary positions, in layers with global attention; 0 for a model without such a base."""
    return float(_rope_parameters(config).get("rope_theta", 0.0))


def _rope_parameters(config: PreTrainedConfig) -> dict[str, Any]:
    """Those of layers with global attention, where layers differ."""
    parameters: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    own: dict[str, Any] = parameters.get("full_attention", parameters)
    return own


def change_rope_theta(encoder: PreTrainedModel, theta: float) -> None:
    """Changes the base of the rotary positions, in layers with global attention."""
    _rope_parameters(encoder.config)["rope_theta"] = theta
    for module in encoder.modules():
        if hasattr(module, "compute_default_rope_parameters"):  # transformers' modules of rotary positions
            fresh: Any = type(module)
            for name, frequencies in fresh(encoder.config).named_buffers():
                getattr(module, name).copy_(frequencies)


def _on_pairs(name: str, config: PreTrainedConfig, manifest: Manifest) -> Iterator[str]:
    """With `--ignore-pairs`: what a model does with pairs whose segments it cannot tell apart."""
    if has_pairs(manifest) and num_token_types(config) < 2:
        yield f"{name}: has no token types, so it reads the two segments of each pair as one text"


def _millions(encoder: PreTrainedModel) -> str:
    return f"{sum(p.numel() for p in encoder.parameters()) / 1e6:.1f} M"

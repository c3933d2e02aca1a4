"""bf16 where it is safe: in products and in all that flows from layer to layer. See Micikevicius et al. 2018, arXiv:1710.03740.

Weights, embedding tables, norms, softmax and losses are computed in fp32. Autocast alone leaves the flow between the layers
in fp32 too, because norms return fp32: then residuals, dropout and norms move twice the bytes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from train.models.families import family_of, layers_of, norms_of

HALF = torch.bfloat16


def stream_in_half(encoder: PreTrainedModel) -> None:
    """From now on norms and embeddings return bf16. For a model that runs under autocast."""
    for module in (*norms_of(encoder), *_embeddings_of(encoder)):
        module.register_forward_hook(_in_half)
    if family_of(encoder.config).embed:  # its embeddings are computed outside of the model
        encoder.base_model.register_forward_pre_hook(_embeddings_in_half, with_kwargs=True)


def _embeddings_of(encoder: PreTrainedModel) -> list[nn.Module]:
    """The modules whose output goes to the first layer. Not every family has a norm between the two."""
    layers = layers_of(encoder)
    parts = [part for part in encoder.base_model.children() if not any(layer in part.modules() for layer in layers)]
    return [part for part in parts if any(isinstance(module, nn.Embedding) for module in part.modules())]


def _embeddings_in_half(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    embeddings = kwargs.get("inputs_embeds")
    return args, kwargs if embeddings is None else kwargs | {"inputs_embeds": embeddings.to(HALF)}


def _in_half(_: nn.Module, __: object, output: Tensor) -> Tensor:
    return output.to(HALF)

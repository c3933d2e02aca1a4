"""bf16 where it is safe: in products and in all that flows from layer to layer. See Micikevicius et al. 2018, arXiv:1710.03740.

Weights, embedding tables, norms, softmax and losses are computed in fp32. Autocast alone leaves the flow between the layers
in fp32 too, because norms return fp32: then residuals, dropout and norms move twice the bytes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from train.models.families import layers_of, norms_of

HALF = torch.bfloat16


def stream_in_half(encoder: PreTrainedModel) -> None:
    """From now on each norm of the model returns bf16, and the first layer gets bf16. For a model that runs under autocast."""
    for norm in norms_of(encoder):
        norm.register_forward_hook(_half_output)
    # Not every family has a norm between its embeddings and its first layer.
    layers_of(encoder)[0].register_forward_pre_hook(_half_input, with_kwargs=True)


def _half_output(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    return output.to(HALF)


def _half_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args:
        return (args[0].to(HALF), *args[1:]), kwargs
    return args, kwargs | {"hidden_states": kwargs["hidden_states"].to(HALF)}

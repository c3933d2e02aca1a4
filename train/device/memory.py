"""What a micro-batch takes of a device's memory, and how to take less.

Shapes: F features, I features between the two products of a layer's feed-forward part.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from train.data.layout import Shape
from train.models.families import layers_of

# A GPU holds no more logits of masked tokens at a time: 6 GB with their gradients. More occur with large vocabularies only.
MOST_LOGITS = 2**29
# Weights, gradients and two moments in fp32, and the weights in bf16.
_BYTES_PER_WEIGHT = 18
_BYTES_PER_LOGIT = 12
_USED_SHARE = 0.8  # of the memory; the rest is for fragments, DDP's buckets and libraries
# With more tokens per micro-batch an H200 was slower: 256 rows of 512 reached 0.84 of the speed of 128 rows.
_MOST_TOKENS = 2**16


def keep_inputs_only(encoder: PreTrainedModel) -> None:
    """From now on a layer keeps only its input for the backward pass, which computes the layer again, with the same dropout.

    After compiling: what is compiled is then computed twice.
    """
    for layer in layers_of(encoder):
        # The place where torch looks for compiled code: names of parameters stay as they are.
        layer._compiled_call_impl = partial(_run_layer, layer, layer._compiled_call_impl or layer._call_impl)


def _run_layer(layer: nn.Module, compute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not layer.training:
        return compute(*args, **kwargs)
    return checkpoint(compute, *args, use_reentrant=False, **kwargs)


def default_rows(
    global_batch: int, world_size: int, shape: Shape, encoder: PreTrainedModel, memory_bytes: int, keep_all: bool
) -> int:
    """Rows of a micro-batch on a GPU: a divisor of the batch that fits into its memory and leaves each process work.

    `keep_all`: without `keep_inputs_only`.
    """
    weights = sum(parameter.numel() for parameter in encoder.parameters())
    free = _USED_SHARE * memory_bytes - _BYTES_PER_WEIGHT * weights
    most = min(int(free / bytes_per_row(shape, encoder, keep_all)), _MOST_TOKENS // shape.tokens, global_batch // world_size)
    return max((rows for rows in divisors(global_batch) if rows <= most), default=1)


def bytes_per_row(shape: Shape, encoder: PreTrainedModel, keep_all: bool) -> float:
    """Bytes that a row needs in bf16, about: Korthikanti et al. 2022, arXiv:2205.05198, section 4, without attention weights.

    10 more per feature are for norms, which read fp32.
    """
    config, layers = encoder.config, layers_of(encoder)
    features, num_layers = int(config.hidden_size), int(config.num_hidden_layers)
    layer_weights = sum(parameter.numel() for parameter in layers[0].parameters())
    inner = max(0.0, layer_weights - 4.0 * features * features) / (2.0 * features)  # I
    one_layer = 28.0 * features + 4.0 * inner
    hidden = one_layer * num_layers if keep_all else one_layer + 2.0 * features * num_layers
    logits = min(shape.masked * int(config.vocab_size), MOST_LOGITS / shape.rows)
    return shape.tokens * hidden + logits * _BYTES_PER_LOGIT


def divisors(number: int) -> list[int]:
    """The divisors, ascending."""
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def fastest_rows(candidates: list[int], speed_of: Callable[[int], float | None]) -> int:
    """The fewest rows that are nearly as fast as the fastest. Candidates ascend; `speed_of` is None if they do not fit."""
    speeds: dict[int, float] = {}
    for rows in candidates:
        speed = speed_of(rows)
        if speed is None or speed < 0.9 * max(speeds.values(), default=0.0):
            break
        speeds[rows] = speed
    enough = 0.97 * max(speeds.values(), default=0.0)
    return next((rows for rows, speed in speeds.items() if speed >= enough), candidates[0])

"""Which kernels compute attention on a GPU, where several can: measured, because it depends on card, lengths and versions.

varlen possible -> flash 4 or 3, if installed and running -> sequences fill their slots? varlen against padded, timed
"""

import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from shards.schema import Rows, lengths_to_offsets
from train.data.batch import pack_batch
from train.data.layout import Layout, Shape
from train.device.attention import PADDED, VARLEN, attention_function
from train.device.torch_versions import faster_flash, slower_flash
from train.models.families import attention_features, window_of

# Padded attention computes 1 / share times the tokens, and as much again in its products. Below this share it cannot win.
_FILLED_SHARE = 0.9
_LAYOUTS: Mapping[str, Layout] = {VARLEN: "varlen", PADDED: "padded"}
_TIMED_PASSES = 10


def start(encoder: PreTrainedModel, device: torch.device) -> list[str]:
    """Prepares the kernels of a model's attention; messages for the user."""
    if encoder.config._attn_implementation != VARLEN:
        return []
    head_features = attention_features(encoder.config) // int(encoder.config.num_attention_heads)
    window = window_of(encoder) - 1  # the most that |i - j| may be
    name = faster_flash(device, head_features, window if window >= 0 else None) or "FA2"
    return [f"attention: varlen, by {name}, which has no dropout of attention weights"]


def may_be_padded(encoder: PreTrainedModel, filled_share: float) -> bool:
    """Whether padded attention can be as fast as varlen. `filled_share`: mean length of a sequence by the longest."""
    return bool(encoder.config._attn_implementation == VARLEN) and filled_share >= _FILLED_SHARE


def times(encoder: PreTrainedModel, shape: Shape, device: torch.device, dropout: float) -> dict[str, float]:
    """Seconds that the attention of a layer takes on a micro-batch of full sequences, forward and backward, by its name."""
    return {name: _time(name, encoder, shape, device, dropout) for name in _LAYOUTS}


def choose_fastest(encoder: PreTrainedModel, seconds: Mapping[str, float]) -> str:
    """Sets the fastest attention. Returns a message for the user."""
    name = min(seconds, key=seconds.__getitem__)
    encoder.config._attn_implementation = name
    if name == PADDED:
        slower_flash()  # flash 3 and 4 serve padded attention too, and fail at dropout
    both = ", ".join(f"{_LAYOUTS[each]} {1000 * seconds[each]:.2f} ms" for each in seconds)
    return f"attention: {_LAYOUTS[name]} is the fastest here ({both} per layer and micro-batch)"


def _time(name: str, encoder: PreTrainedModel, shape: Shape, device: torch.device, dropout: float) -> float:
    heads = int(encoder.config.num_attention_heads)
    size = (shape.rows, heads, shape.tokens, int(encoder.config.hidden_size) // heads)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    query, key, value = (torch.randn(size, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
    batch = pack_batch(full_rows(shape), shape, 0, _LAYOUTS[name]).to(device)
    attend, module, started = attention_function(name), nn.Module(), 0.0
    for number in range(1 + _TIMED_PASSES):
        out, _ = attend(module, query, key, value, None, batch=batch, dropout=dropout)
        out.backward(torch.ones_like(out))  # type: ignore[no-untyped-call]
        if number in (0, _TIMED_PASSES):
            _wait(device)
            started = started if number else time.perf_counter()
    return (time.perf_counter() - started) / _TIMED_PASSES


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def full_rows(shape: Shape) -> Rows:
    """Rows of as many sequences of the full length as fit."""
    per_row = max(1, shape.tokens // shape.longest)
    lengths = np.full(shape.rows * per_row, min(shape.longest, shape.tokens), np.uint16)
    sequence_offsets = np.arange(shape.rows + 1) * per_row
    token_offsets = lengths_to_offsets(lengths)[sequence_offsets]
    return Rows(token_offsets, sequence_offsets, np.zeros(int(token_offsets[-1]), np.uint32), lengths, lengths)

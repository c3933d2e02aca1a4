"""Attention that cannot cross from one packed sequence to another, for transformers' attention interface.

    padded   lays the sequences side by side, padded to the longest there may be, for torch's scaled_dot_product_attention,
             and lays the result back. Works everywhere.
    varlen   torch's variable-length flash attention. CUDA, half precision.

Only attention sees padding; everything else works on packed rows.

Shapes: B rows, T tokens per row, N = B * T, H heads, D features per head, F = H * D; Q slots for sequences of up to L tokens,
S = Q * L.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from shards.errors import UserError
from train.data.batch import PackedBatch
from train.data.layout import Layout
from train.device.local_attention import attend_in_blocks, is_worth_it
from train.device.torch_versions import varlen_attention
from train.models.families import attention_features, window_of
from train.settings import Attention

PADDED, VARLEN = "packed_padded", "packed_varlen"
_attend = varlen_attention()

# What transformers' models may pass on to every attention function, and the values that change nothing here: an encoder keeps
# no cache and returns no weights. An argument of any name that is None asks for nothing. The model uses `position_ids` itself.
_HARMLESS: Mapping[str, tuple[bool, ...]] = {
    "is_causal": (False,),
    "output_attentions": (False,),
    "output_hidden_states": (False,),
    "use_cache": (False, True),
    "deterministic": (False, True),
}


class _Permute(torch.autograd.Function):
    """x[source], where each item of x goes to at most one place of the result: backward is a gather too, never a sum.

    `source` [R]: for each place of the result, the item of x. `place` [X]: for each item of x, its place in the result.
    `receives` [X, 1]: whether an item of x takes part in the result, and so receives a gradient; None: all do.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Tensor, place: Tensor, receives: Tensor | None) -> Tensor:
        ctx.save_for_backward(place, *(() if receives is None else (receives,)))
        return x.index_select(0, source)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        place, *receives = ctx.saved_tensors
        grad = grad.index_select(0, place)
        return grad * receives[0] if receives else grad, None, None, None


def _padded(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    batch: PackedBatch,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    position_ids: Tensor | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """`query`, `key` and `value` [B, H, T, D] -> [B, T, H, D], as transformers calls every attention function."""
    _refuse_unknown(others)
    rows, heads, row_tokens, features = query.shape
    slots = batch.slots
    assert slots is not None, "a batch of the layout varlen"

    def to_slots(x_BHTD: Tensor) -> Tensor:
        heads = x_BHTD.shape[1]  # keys and values may have fewer heads than queries
        x_NF = x_BHTD.transpose(1, 2).reshape(rows * row_tokens, heads * features)
        x_SF: Tensor = _Permute.apply(x_NF, slots.token_of_slot, slots.slot_of_token, None)  # type: ignore[no-untyped-call]
        return x_SF.view(-1, batch.longest, heads, features).transpose(1, 2)

    in_slots = to_slots(query), to_slots(key), to_slots(value)
    if sliding_window is not None and is_worth_it(sliding_window, batch.longest):
        out_QHLD = attend_in_blocks(*in_slots, slots, sliding_window, dropout, scaling)
    else:
        keys = _keys_of_slots(batch, sliding_window)
        out_QHLD = scaled_dot_product_attention(
            *in_slots, keys, dropout_p=dropout, scale=scaling, enable_gqa=key.shape[1] != heads
        )
    out_SF = out_QHLD.transpose(1, 2).reshape(-1, heads * features)
    holds_token_S1 = slots.is_token.view(-1, 1)
    out_NF: Tensor = _Permute.apply(  # type: ignore[no-untyped-call]
        out_SF, slots.slot_of_token, slots.token_of_slot, holds_token_S1
    )
    return out_NF.view(rows, row_tokens, heads, features), None


def _keys_of_slots(batch: PackedBatch, sliding_window: int | None) -> Tensor:
    """[Q, 1, 1 or L, L] bool: the keys that each slot attends to, those of its sequence at a distance below the window."""
    assert batch.slots is not None, "a batch of the layout varlen"
    is_key_Q11L = batch.slots.is_key[:, None, None, :]
    if sliding_window is None or sliding_window >= batch.longest:
        return is_key_Q11L
    place_L = torch.arange(batch.longest, device=is_key_Q11L.device)
    is_near_LL = (place_L[:, None] - place_L).abs() < sliding_window
    # A slot without a token may have no key near it, and a softmax over no keys is NaN. So it attends to the whole sequence.
    is_empty_Q1L1 = ~batch.slots.is_token[:, None, :, None]
    return is_key_Q11L & (is_near_LL | is_empty_Q1L1)


def _varlen(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    batch: PackedBatch,
    dropout: float = 0.0,  # the kernels have none: `kernels.start` tells the user
    scaling: float | None = None,
    sliding_window: int | None = None,
    position_ids: Tensor | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """`query`, `key` and `value` [B, H, T, D] -> [B, T, H, D], as transformers calls every attention function."""
    _refuse_unknown(others)
    rows, heads, row_tokens, features = query.shape
    if key.shape[1] != heads:  # several heads of queries share one of keys and values
        key, value = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (key, value))
    q_NHD, k_NHD, v_NHD = (x.transpose(1, 2).reshape(rows * row_tokens, heads, features) for x in (query, key, value))
    assert _attend is not None  # `choose` has checked it
    window = None if sliding_window is None else sliding_window - 1  # the most that |i - j| may be
    out_NHD = _attend(q_NHD, k_NHD, v_NHD, batch.run_starts, batch.longest, scaling, window)
    return out_NHD.view(rows, row_tokens, heads, features), None


def _refuse_unknown(others: Mapping[str, object]) -> None:
    """Raises TypeError for an argument that these functions would ignore, such as a cap on the scores."""
    for name, value in others.items():
        if value is not None and not any(value is harmless for harmless in _HARMLESS.get(name, ())):
            raise TypeError(f"attention on packed rows does not support {name}={value!r}, which the model passes to it")


_FUNCTIONS = {PADDED: _padded, VARLEN: _varlen}
for _name, _function in _FUNCTIONS.items():
    AttentionInterface.register(_name, _function)


def attention_function(name: str) -> Callable[..., tuple[Tensor, None]]:
    """The function of that name, which is `PADDED` or `VARLEN`."""
    return _FUNCTIONS[name]


def choose(attention: Attention, device: torch.device, half: bool, encoder: PreTrainedModel) -> str:
    """Sets a model's attention as `--attention` asks, and returns its name. Raises UserError where it cannot run."""
    features = attention_features(encoder.config) // encoder.config.num_attention_heads
    fits_kernels = features % 8 == 0 and features <= 256
    can_attend = varlen_attention(needs_window=window_of(encoder) > 0) is not None
    can_varlen = can_attend and device.type == "cuda" and half and fits_kernels and _has_flash(device)
    if attention == "varlen" and not can_varlen:
        raise UserError(
            "--attention varlen needs an NVIDIA device of compute capability 8.0 or higher, bf16, and heads of a multiple of 8 "
            f"and at most 256 features (the model's have {features}, the device is {device}); use auto or padded"
        )
    name = VARLEN if can_varlen and attention != "padded" else PADDED
    encoder.config._attn_implementation = name
    return name


def layout_of(encoder: PreTrainedModel, is_compiled: bool = False) -> Layout:
    """The layout of batches that the model's attention needs."""
    if encoder.config._attn_implementation == VARLEN:
        return "varlen"
    return "rounded" if is_compiled else "padded"


def _has_flash(device: torch.device) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)

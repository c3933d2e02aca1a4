"""Attention that cannot cross from one packed sequence to another, for transformers' attention interface.

`padded` lays the sequences side by side, padded to the longest there may be, for torch's scaled_dot_product_attention, and
lays the result back; it works everywhere. `varlen` is torch's variable-length flash attention: CUDA, half precision.
Only attention sees padding; everything else works on packed rows.

Shapes: B rows, T tokens a row, N = B * T, H heads, D features a head; Q slots for sequences of up to L tokens.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, BertForPreTraining

from shards.errors import UserError
from train.data.batch import PackedBatch

PADDED, VARLEN = "packed_padded", "packed_varlen"


class _Relay(torch.autograd.Function):
    """x[there] where `back` says for each item of x the one place it went to: backward is a gather too, never a sum.

    `came`: for each place in the result whether an item came there that is to receive the gradient; None where all are.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor, came: Tensor | None) -> Tensor:
        ctx.save_for_backward(back, *(() if came is None else (came,)))
        return x.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        back, *came = ctx.saved_tensors
        grad = grad.index_select(0, back)
        return grad * came[0] if came else grad, None, None, None


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
    **_: Any,
) -> tuple[Tensor, None]:
    rows, heads, row_tokens, features = query.shape

    def spread(x_BHTD: Tensor) -> Tensor:
        x_NF = x_BHTD.transpose(1, 2).reshape(rows * row_tokens, heads * features)
        x_SF = _Relay.apply(x_NF, batch.token_of_slot, batch.slot_of_token, None)  # type: ignore[no-untyped-call]  # torch's
        return x_SF.view(-1, batch.longest, heads, features).transpose(1, 2)  # type: ignore[no-any-return]  # likewise

    seen_Q11L = batch.is_key[:, None, None, :]
    out_QHLD = scaled_dot_product_attention(
        spread(query), spread(key), spread(value), seen_Q11L, dropout_p=dropout, scale=scaling
    )
    out_SF = out_QHLD.transpose(1, 2).reshape(-1, heads * features)
    came = batch.is_token.view(-1, 1)
    out_NF = _Relay.apply(out_SF, batch.slot_of_token, batch.token_of_slot, came)  # type: ignore[no-untyped-call]  # torch's
    return out_NF.view(rows, row_tokens, heads, features), None


def _varlen(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    batch: PackedBatch,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    from torch.nn.attention.varlen import varlen_attn

    rows, heads, row_tokens, features = query.shape
    q, k, v = (x.transpose(1, 2).reshape(rows * row_tokens, heads, features) for x in (query, key, value))
    starts, longest = batch.run_starts, batch.longest
    out = varlen_attn(q, k, v, starts, starts, longest, longest, scale=scaling)
    return out.view(rows, row_tokens, heads, features), None  # type: ignore[union-attr]  # a tensor without return_aux


AttentionInterface.register(PADDED, _padded)
AttentionInterface.register(VARLEN, _varlen)


def choose(asked: str, device: torch.device, half: bool, bert: BertForPreTraining) -> str:
    """Sets a model's attention as `--attention auto|padded|varlen` means it, and returns its name. Raises UserError."""
    features = bert.config.hidden_size // bert.config.num_attention_heads
    fits = features % 8 == 0 and features <= 256  # what the flash kernels take
    possible = device.type == "cuda" and half and fits and _has_flash(device)
    if asked == "varlen" and not possible:
        raise UserError(
            "--attention varlen needs an NVIDIA device of compute capability 8.0 or higher, bf16, and heads of a multiple of 8 "
            f"and at most 256 features (the model's have {features}, the device is {device}); use auto or padded"
        )
    name = VARLEN if possible and asked != "padded" else PADDED
    bert.config._attn_implementation = name
    return name


def _has_flash(device: torch.device) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)

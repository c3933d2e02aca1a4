"""CPU kernels for torch's variable-length attention, so that everything around the GPU's kernels runs in tests on a CPU.

torch's own function, its operators, their shapes and their place in autograd stay as they are; only what a GPU would compute is
computed here: attention within one run after the other.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.attention.varlen  # defines the operators
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def attend(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, scale: float | None, window: int | None) -> Tensor:
    """[N, H, D] each -> [N, H, D], within runs, at most `window` tokens away."""
    parts = []
    for first, last in pairwise(starts.tolist()):
        is_near = _near(last - first, window).to(query.device)
        inputs = (x[first:last].transpose(0, 1) for x in (query, key, value))
        parts.append(scaled_dot_product_attention(*inputs, is_near, scale=scale).transpose(0, 1))
    return torch.cat(parts)


def _near(length: int, window: int | None) -> Tensor:
    place = torch.arange(length)
    return (place[:, None] - place).abs() <= (length if window is None else window)


def _window(window_size: list[int] | None) -> int | None:
    left, right = window_size or (-1, -1)
    assert left == right, "one of our windows has two equal sides"
    return None if left < 0 else left


@torch.library.register_kernel("torch_attn::_varlen_attn", "cpu")
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    _: Tensor,
    longest: int,
    __: int,
    is_causal: bool = False,
    scale: float | None = None,
    window_size: list[int] | None = None,
    *others: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    assert starts.dtype == torch.int32 and int(starts.diff().max()) <= longest and not is_causal and not any(others)
    out = attend(query, key, value, starts, scale, _window(window_size)).contiguous()
    return out, query.new_zeros(query.shape[1], len(query), dtype=torch.float32), torch.zeros(2, dtype=torch.uint64)


@torch.library.register_kernel("torch_attn::_varlen_attn_backward", "cpu")
def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    starts: Tensor,
    _: Tensor,
    longest: int,
    __: int,
    is_causal: bool,
    rng_state: Tensor,
    scale: float | None = None,
    window_size: list[int] | None = None,
    *others: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """By hand: below autograd there is none. Run after run, with P the weights of attention."""
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    grads = [torch.empty_like(x) for x in (query, key, value)]
    for first, last in pairwise(starts.tolist()):
        q, k, v, grad_out = (x[first:last].float().transpose(0, 1) for x in (query, key, value, grad))
        weights = (q @ k.mT * factor).masked_fill(~_near(last - first, _window(window_size)), -torch.inf).softmax(-1)
        grad_weights = grad_out @ v.mT
        grad_scores = weights * (grad_weights - (grad_weights * weights).sum(-1, keepdim=True)) * factor
        for result, part in zip(grads, (grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_out), strict=True):
            result[first:last] = part.transpose(0, 1)
    return grads[0], grads[1], grads[2]

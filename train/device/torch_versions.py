"""What differs between the versions of torch that the trainer runs on (2.11 and newer), asked for by name and signature.

Everything else in `train` calls torch as all of these versions have it. A version number is never compared: a build of a
cluster may lack what its number promises, or have what a newer one brought.

    without_buffer_sync   DDP's argument that stops it from sending buffers in every step
    varlen_attention      attention over packed sequences; None where torch has none
    faster_flash          switches that attention to flash 4 or 3, where they are installed and run
    slower_flash          switches back
    muon                  the optimizer; None where torch has none
"""

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import attention
from torch.nn.parallel import DistributedDataParallel

# Newest first. torch registers these names; each needs a package that its users install themselves.
_FLASH = ("FA4", "FA3")
_CLOSE = 0.02  # relative and absolute, in bf16


class VarlenAttention(Protocol):
    """Attention within packed sequences."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scale: float | None, window: int | None
    ) -> Tensor:
        """[N, H, D] each -> [N, H, D]. `starts` [K + 1] int32: offsets in N. `window`: the most that |i - j| may be."""


def without_buffer_sync() -> dict[str, Any]:
    """DDP's argument for not sending buffers in every forward pass. Before torch 2.13 it has another name."""
    new, old = "forward_sync_buffers", "broadcast_buffers"
    return {new if new in _parameters(DistributedDataParallel) else old: False}


def varlen_attention(needs_window: bool = False) -> VarlenAttention | None:
    """torch's variable-length attention, or None where this torch has none, or none with a window where one is needed."""
    function: Any = _find("torch.nn.attention.varlen", "varlen_attn")
    has_window = function is not None and "window_size" in _parameters(function)
    if function is None or (needs_window and not has_window):
        return None

    def attend(
        query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scale: float | None, window: int | None
    ) -> Tensor:
        # By position as far as every version agrees. (-1, 0) would mean causal; (0, 0) is a window of the token itself.
        options = {} if window is None else {"window_size": (window, window)}
        out: Tensor = function(query, key, value, starts, starts, longest, longest, scale=scale, **options)
        return out

    return attend


def faster_flash(device: torch.device, head_features: int, window: int | None) -> str | None:
    """Switches torch's flash attention to flash 4 or 3, and returns its name: "FA4" or "FA3". None: torch's own runs.

    `head_features` and `window` are the model's: not every kernel takes every size, or a window.

    A switch that torch accepts may still not fit the installed package. So each one computes a small example, forward and
    backward, and is taken back if it fails or its result differs from that of torch's own kernels. Both serve
    `scaled_dot_product_attention` too, without dropout: call this only for a model with varlen attention.
    """
    attend = varlen_attention()
    if attend is None or device.type != "cuda" or _find("torch.nn.attention", "activate_flash_attention_impl") is None:
        return None
    return _switch_flash(attend, device, head_features, window)


def slower_flash() -> None:
    """Switches back to torch's own flash attention."""
    if _find("torch.nn.attention", "current_flash_attention_impl") and attention.current_flash_attention_impl() is not None:
        attention.restore_flash_attention_impl()


def _switch_flash(attend: VarlenAttention, device: torch.device, head_features: int, window: int | None) -> str | None:
    expected = _try_out(attend, device, head_features, window)
    for name in _FLASH:
        try:
            attention.activate_flash_attention_impl(name)
            pairs = zip(_try_out(attend, device, head_features, window), expected, strict=True)
            if all(torch.allclose(x, y, rtol=_CLOSE, atol=_CLOSE) for x, y in pairs):
                return name
        except Exception:  # a missing package, or one that does not fit, fails in any way
            pass
        if attention.current_flash_attention_impl() is not None:
            attention.restore_flash_attention_impl()
    return None


def muon() -> type[torch.optim.Optimizer] | None:
    """torch's Muon (Jordan et al. 2024) with a choice of how its learning rate is adjusted, or None."""
    optimizer: Any = _find("torch.optim", "Muon")
    return optimizer if optimizer is not None and "adjust_lr_fn" in _parameters(optimizer) else None


def _find(module: str, name: str) -> Any:
    """The name in the module, or None where either is missing."""
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def _parameters(function: Callable[..., Any]) -> Sequence[str]:
    return list(inspect.signature(function).parameters)


def _try_out(attend: VarlenAttention, device: torch.device, head_features: int, window: int | None) -> list[Tensor]:
    """The result and the gradients of attention over two short sequences, in float32; with a window, also without it."""
    generator = torch.Generator(device).manual_seed(0)
    shape, half = (192, 2, head_features), torch.bfloat16
    inputs = [torch.randn(shape, device=device, generator=generator).to(half).requires_grad_() for _ in range(3)]
    grad = torch.randn(shape, device=device, generator=generator).to(half)
    starts = torch.tensor([0, 128, 192], dtype=torch.int32, device=device)
    query, key, value = inputs
    results = []
    for distance in dict.fromkeys((None, window)):
        out = attend(query, key, value, starts, 128, None, distance)
        results += [x.detach().float() for x in (out, *torch.autograd.grad(out, inputs, grad))]
    return results

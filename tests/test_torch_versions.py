"""What differs between versions of torch: every branch, by hiding the name that an older one lacks."""

import sys
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa
from torch.nn.parallel import DistributedDataParallel

from train.device import torch_versions
from train.device.torch_versions import faster_flash, muon, varlen_attention, without_buffer_sync

CPU = torch.device("cpu")
VARLEN = "torch.nn.attention.varlen.varlen_attn"


def within_runs(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, scale: float | None, window: int = -1) -> Tensor:
    """Attention in each run, one after the other, at most `window` tokens away."""
    parts = []
    for first, last in pairwise(starts.tolist()):
        place = torch.arange(last - first)
        is_near = (place[:, None] - place).abs() <= (window if window >= 0 else last)
        parts.append(sdpa(*(x[first:last].transpose(0, 1) for x in (q, k, v)), is_near, scale=scale).transpose(0, 1))
    return torch.cat(parts)


def new_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    assert window_size[0] == window_size[1] and cu_seq_q is cu_seq_k and max_q == max_k >= cu_seq_q.diff().max()
    return within_runs(query, key, value, cu_seq_q, scale, window_size[0])


def old_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool = False,
    return_aux: None = None,
    scale: float | None = None,
) -> Tensor:
    assert not is_causal
    return within_runs(query, key, value, cu_seq_q, scale)


def old_ddp(self: Any, module: Any, device_ids: Any = None, broadcast_buffers: bool = True) -> None: ...


def new_ddp(self: Any, module: Any, device_ids: Any = None, forward_sync_buffers: bool | None = None) -> None: ...


def test_the_argument_of_ddp_has_the_name_that_this_torch_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    for init, name in ((old_ddp, "broadcast_buffers"), (new_ddp, "forward_sync_buffers")):
        monkeypatch.setattr(DistributedDataParallel, "__init__", init)
        assert without_buffer_sync() == {name: False}


@pytest.mark.parametrize("function", [new_varlen, old_varlen])
def test_attention_is_called_as_each_version_wants_it(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VARLEN, function)
    attend = varlen_attention()
    assert attend is not None
    q, k, v = torch.randn(3, 12, 2, 8)
    starts = torch.tensor([0, 7, 12], dtype=torch.int32)
    assert torch.equal(attend(q, k, v, starts, 7, 0.3, None), within_runs(q, k, v, starts, 0.3))


def test_a_window_reaches_the_kernels_or_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VARLEN, new_varlen)
    attend = varlen_attention(needs_window=True)
    assert attend is not None
    q, k, v = torch.randn(3, 12, 2, 8)
    starts = torch.tensor([0, 7, 12], dtype=torch.int32)
    near = attend(q, k, v, starts, 7, None, 0)
    assert torch.allclose(near, v, atol=1e-6), "a token sees itself alone"
    assert not torch.allclose(attend(q, k, v, starts, 7, None, 1), near)
    monkeypatch.setattr(VARLEN, old_varlen)
    assert varlen_attention() is not None and varlen_attention(needs_window=True) is None


@pytest.mark.parametrize("missing", ["attribute", "module"])
def test_a_torch_without_varlen_has_none(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "attribute":
        monkeypatch.delattr(VARLEN)
    else:
        monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    assert varlen_attention() is None and faster_flash(torch.device("cuda"), 64, None) is None


def test_this_torch_has_varlen_with_a_window() -> None:
    assert varlen_attention(needs_window=True) is not None


class Switches:
    """A stand-in for torch's registry: what is active, and how its kernels behave."""

    def __init__(self, kernels: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        self.active: str | None = None
        self.kernels = kernels
        self.takes = lambda head_features, window: True

        def varlen(
            q: Tensor,
            k: Tensor,
            v: Tensor,
            starts: Tensor,
            *_: object,
            scale: float | None,
            window_size: tuple[int, int] = (-1, -1),
        ) -> Tensor:
            if self.active == "FA4" and not self.takes(q.shape[-1], window_size[0]):
                raise ValueError("not supported")
            out = within_runs(q, k, v, starts, scale, window_size[0])
            return out if self.active is None else self.kernels[self.active](out)

        def activate(name: str) -> None:
            if name not in self.kernels:
                raise ModuleNotFoundError(name)
            self.active = name

        monkeypatch.setattr(VARLEN, varlen)
        for name, function in {
            "activate": activate,
            "current": lambda: self.active,
            "restore": lambda: setattr(self, "active", None),
        }.items():
            monkeypatch.setattr(f"torch.nn.attention.{name}_flash_attention_impl", function)


def _broken(out: Tensor) -> Tensor:
    raise ValueError("too many values to unpack")


@pytest.mark.parametrize(
    ("kernels", "expected"),
    [
        ({}, None),
        ({"FA4": lambda out: out * 1.001}, "FA4"),
        ({"FA4": _broken, "FA3": lambda out: out}, "FA3"),
        ({"FA4": _broken}, None),
        ({"FA4": lambda out: out * 1.5, "FA3": lambda out: out.detach()}, None),
    ],
)
def test_faster_kernels_are_taken_only_where_they_run(
    kernels: dict[str, Any], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last ones compute wrong results, and no gradient."""
    switches = Switches(kernels, monkeypatch)
    attend = varlen_attention()
    assert attend is not None
    assert torch_versions._switch_flash(attend, CPU, 64, None) == expected == switches.active


def test_faster_kernels_must_take_the_models_heads_and_window(monkeypatch: pytest.MonkeyPatch) -> None:
    switches = Switches({"FA4": lambda out: out}, monkeypatch)
    attend = varlen_attention()
    assert attend is not None
    switches.takes = lambda head_features, window: head_features == 64 and window < 0
    for head_features, window, expected in ((64, None, "FA4"), (64, 16, None), (24, None, None)):
        switches.active = None
        assert torch_versions._switch_flash(attend, CPU, head_features, window) == expected == switches.active


def test_without_the_switch_or_without_cuda_torchs_own_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert faster_flash(CPU, 64, None) is None
    monkeypatch.delattr("torch.nn.attention.activate_flash_attention_impl")
    assert faster_flash(torch.device("cuda"), 64, None) is None


def test_muon_is_torchs_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert muon() is torch.optim.Muon
    monkeypatch.setattr("torch.optim.Muon", torch.optim.SGD)
    assert muon() is None
    monkeypatch.delattr("torch.optim.Muon")
    assert muon() is None

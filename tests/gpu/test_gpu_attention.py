"""The packed model is the padded one, on each device, with each attention, in fp32 and bf16."""

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa
from torch.utils.flop_counter import FlopCounterMode

from gpu.on_device import GPU, SHAPE, bert, counts_of, difference, gradient_of, pack, padded_losses, rows_of
from train.device import attention
from train.device.precision import stream_in_half
from train.device.torch_versions import faster_flash, varlen_attention
from train.models.packed import PackedEncoder
from train.ranks import autocast
from train.step import Counts, backward
from train.throughput import step_flops

# The gradient's difference from transformers' padded model in fp32, as a share of its norm.
LARGEST_FP32, LARGEST_BF16 = 1e-5, 1e-2


def packed_gradient(device: torch.device, half: bool, name: attention.Attention) -> tuple[torch.Tensor, torch.Tensor]:
    """[MLM, NSP] and the gradient of a packed model with this attention."""
    encoder = bert(device)
    attention.choose(name, device, half, encoder)
    if half:
        stream_in_half(encoder)
    batch = pack(rows_of(3), attention.layout_of(encoder), device)
    losses = backward(PackedEncoder(encoder), [batch], [0], counts_of(batch), lambda: autocast(device, half))
    return losses.cpu(), gradient_of(encoder)


def padded_gradient(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in fp32 by transformers' own model."""
    model = bert(device)
    losses = padded_losses(model, rows_of(3), device)
    losses.sum().backward()
    return losses.detach().cpu(), gradient_of(model)


def test_in_fp32_losses_and_gradient_are_those_of_the_padded_model(device: torch.device) -> None:
    (ours, our_gradient), (theirs, their_gradient) = packed_gradient(device, False, "auto"), padded_gradient(device)
    assert ours.tolist() == pytest.approx(theirs.tolist(), abs=1e-5)
    assert difference(our_gradient, their_gradient) < LARGEST_FP32


def test_in_bf16_losses_and_gradient_are_near_those_in_fp32(device: torch.device) -> None:
    (ours, our_gradient), (theirs, their_gradient) = packed_gradient(device, True, "padded"), padded_gradient(device)
    assert ours.tolist() == pytest.approx(theirs.tolist(), abs=0.02)
    assert 0 < difference(our_gradient, their_gradient) < LARGEST_BF16


@pytest.mark.parametrize("name", [GPU])
def test_varlen_is_as_near(name: str) -> None:
    device = torch.device(name, 0)
    (ours, our_gradient), (theirs, their_gradient) = packed_gradient(device, True, "varlen"), padded_gradient(device)
    assert ours.tolist() == pytest.approx(theirs.tolist(), abs=0.02)
    assert 0 < difference(our_gradient, their_gradient) < LARGEST_BF16


@pytest.mark.parametrize("name", [GPU])
@pytest.mark.parametrize("window", [None, 0, 5, 64])
def test_the_kernels_attend_within_runs_and_windows(name: str, window: int | None) -> None:
    device = torch.device(name, 0)
    attend = varlen_attention(needs_window=True)
    assert attend is not None
    torch.manual_seed(1)
    q, k, v = (torch.randn(200, 2, 64, device=device, dtype=torch.bfloat16) for _ in range(3))
    starts = torch.tensor([0, 77, 140, 200, 200, 200], dtype=torch.int32, device=device)  # unused runs are empty
    out = attend(q, k, v, starts, 128, None, window)
    for first, last in pairwise([0, 77, 140, 200]):
        place = torch.arange(last - first, device=device)
        is_near = (place[:, None] - place).abs() <= (200 if window is None else window)
        expected = sdpa(*(x[first:last].float().transpose(0, 1) for x in (q, k, v)), is_near).transpose(0, 1)
        torch.testing.assert_close(out[first:last].float(), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", [GPU])
def test_faster_kernels_are_those_that_run_or_none(name: str) -> None:
    """Whatever is installed: after the call, attention still computes, with the name that was returned."""
    from torch.nn.attention import current_flash_attention_impl, restore_flash_attention_impl

    try:
        assert faster_flash(torch.device(name, 0)) == current_flash_attention_impl()
        assert packed_gradient(torch.device(name, 0), True, "varlen")[0].isfinite().all()
    finally:
        if current_flash_attention_impl() is not None:
            restore_flash_attention_impl()


def test_operations_of_a_step_are_those_that_torch_counts(device: torch.device) -> None:
    """torch counts what is computed, padding too. It counts attention on a GPU alone: 14 per layer, feature and pair.

    Ours are 12, as published: the kernels compute the scores again in backward.
    """
    encoder = bert(device)
    attention.choose("padded", device, False, encoder)
    batch = pack(rows_of(4), "padded", device)
    with FlopCounterMode(display=False) as counter:
        backward(PackedEncoder(encoder), [batch], [0], counts_of(batch), lambda: autocast(device, False))
    assert batch.slots is not None
    computed = Counts(batch.input_ids.numel(), len(batch.masked_at), len(batch.cls_at), attended=0)
    pairs = batch.slots.is_key.numel() * SHAPE.longest
    config = encoder.config
    own_pooler = 2 * SHAPE.rows * config.hidden_size**2  # of transformers' base model: the first token of each row
    kernels = 14 * config.num_hidden_layers * config.hidden_size * pairs if device.type == "cuda" else 0
    assert counter.get_total_flops() == pytest.approx(step_flops(encoder, computed) + own_pooler + kernels)

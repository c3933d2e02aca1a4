"""The packed model is the padded one, on each device, with each attention, in fp32 and bf16."""

from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from gpu.on_device import GPU, SHAPE, bert, counts_of, difference, gradient_of, modernbert, pack, padded_losses, rows_of
from gpu.varlen_on_cpu import attend
from train.device import attention, compiling
from train.device.precision import stream_in_half
from train.device.torch_versions import faster_flash, varlen_attention
from train.models.packed import PackedEncoder
from train.ranks import autocast
from train.step import Counts, backward
from train.throughput import step_flops

# The gradient's difference from transformers' padded model in fp32, as a share of its norm.
LARGEST_FP32, LARGEST_BF16 = 1e-5, 1e-2


def packed_gradient(device: torch.device, half: bool, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """[MLM, NSP] and the gradient of a packed model with this attention."""
    encoder = bert(device)
    encoder.config._attn_implementation = name
    if half:
        stream_in_half(encoder)
    batch = pack(rows_of(3), attention.layout_of(encoder), device)
    assert (batch.slots is None) == (name == attention.VARLEN)
    losses = backward(PackedEncoder(encoder), [batch], [0], counts_of(batch), lambda: autocast(device, half))
    return losses.cpu(), gradient_of(encoder)


def padded_gradient(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in fp32 by transformers' own model."""
    model = bert(device)
    losses = padded_losses(model, rows_of(3), device)
    losses.sum().backward()
    return losses.detach().cpu(), gradient_of(model)


@pytest.mark.parametrize("name", [attention.PADDED, attention.VARLEN])
def test_in_fp32_losses_and_gradient_are_those_of_the_padded_model(device: torch.device, name: str) -> None:
    if name == attention.VARLEN and device.type == "cuda":
        pytest.skip("the kernels compute in half precision")
    (ours, our_gradient), (theirs, their_gradient) = packed_gradient(device, False, name), padded_gradient(device)
    assert ours.tolist() == pytest.approx(theirs.tolist(), abs=1e-5)
    assert difference(our_gradient, their_gradient) < LARGEST_FP32


@pytest.mark.parametrize("name", [attention.PADDED, attention.VARLEN])
def test_in_bf16_losses_and_gradient_are_near_those_in_fp32(device: torch.device, name: str) -> None:
    (ours, our_gradient), (theirs, their_gradient) = packed_gradient(device, True, name), padded_gradient(device)
    assert ours.tolist() == pytest.approx(theirs.tolist(), abs=0.02)
    assert 0 < difference(our_gradient, their_gradient) < LARGEST_BF16


def test_on_a_gpu_with_bf16_the_variable_length_kernels_are_chosen(device: torch.device) -> None:
    expected = attention.VARLEN if device.type == "cuda" else attention.PADDED
    assert attention.choose("auto", device, True, bert(device)) == expected
    assert attention.choose("auto", device, False, bert(device)) == attention.PADDED


@pytest.mark.parametrize("window", [None, 0, 5, 64])
def test_the_kernels_attend_within_runs_and_windows(device: torch.device, window: int | None) -> None:
    """Against the definition in fp32. On a CPU this tests the way to the kernels, not the kernels."""
    kernels = varlen_attention(needs_window=True)
    assert kernels is not None
    torch.manual_seed(1)
    q, k, v = (torch.randn(200, 2, 64, device=device, dtype=torch.bfloat16) for _ in range(3))
    starts = torch.tensor([0, 77, 140, 200, 200, 200], dtype=torch.int32, device=device)  # unused runs are empty
    out = kernels(q, k, v, starts, 128, None, window)
    expected = attend(q.float(), k.float(), v.float(), starts, None, window)
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.02)


@pytest.mark.filterwarnings("ignore")  # torch's compiler warns about itself
def test_the_layers_compile_with_variable_length_attention_without_a_break(slow_device: torch.device) -> None:
    """Once for all layers, whatever the batch holds."""
    from torch._dynamo.utils import counters

    encoder = bert(slow_device)
    encoder.config._attn_implementation = attention.VARLEN
    stream_in_half(encoder)
    packed = PackedEncoder(encoder)
    torch._dynamo.reset()
    counters.clear()
    try:
        compiling.compile_model(packed, encoder, "layers", backend="aot_eager")
        for seed in range(3):
            batch = pack(rows_of(4 - seed, seed), "varlen", slow_device)
            backward(packed, [batch], [0], counts_of(batch), lambda: autocast(slow_device, True))
        assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    finally:
        torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", [bert, modernbert])
@pytest.mark.parametrize("name", [attention.PADDED, attention.VARLEN])
def test_a_whole_model_compiles_without_a_break(
    slow_device: torch.device, name: str, family: Callable[[torch.device], PreTrainedModel]
) -> None:
    """As for CUDA graphs: forward and backward in one graph each, and the same losses."""
    encoder = family(slow_device)
    encoder.config._attn_implementation = name
    packed, batch = PackedEncoder(encoder), pack(rows_of(3), attention.layout_of(encoder, is_compiled=True), slow_device)
    stream_in_half(encoder)
    plain = backward(packed, [batch], [0], counts_of(batch), lambda: autocast(slow_device, True))
    torch._dynamo.reset()
    try:
        packed.compile(backend="aot_eager", dynamic=False, fullgraph=True)
        compiled = backward(packed, [batch], [0], counts_of(batch), lambda: autocast(slow_device, True))
    finally:
        torch._dynamo.reset()
    torch.testing.assert_close(compiled, plain, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("name", [GPU])
def test_faster_kernels_are_those_that_run_or_none(name: str) -> None:
    """Whatever is installed: after the call, attention still computes, with the name that was returned."""
    from torch.nn.attention import current_flash_attention_impl, restore_flash_attention_impl

    try:
        assert faster_flash(torch.device(name, 0), 64, None) == current_flash_attention_impl()
        assert packed_gradient(torch.device(name, 0), True, attention.VARLEN)[0].isfinite().all()
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

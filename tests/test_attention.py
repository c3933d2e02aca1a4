"""Attention within sequences: the variable-length kernels are told where those begin, and nothing is ignored."""

import copy
from itertools import pairwise

import pytest
import torch
from batches import SHAPE, bert, masked_rows, pack
from datasets_of_rows import ROW_TOKENS
from small_encoders import small_encoder
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import AttentionInterface

from shards.errors import UserError
from train.device import attention
from train.models.packed import PackedEncoder


def test_varlen_is_refused_where_it_cannot_be() -> None:
    model = bert()
    assert attention.choose("auto", torch.device("cpu"), True, model) == attention.PADDED == model.config._attn_implementation
    with pytest.raises(UserError, match="--attention varlen needs an NVIDIA device"):
        attention.choose("varlen", torch.device("cpu"), True, model)


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "eurobert", "esm"])
def test_varlen_is_told_the_right_boundaries_and_windows(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock: the kernels need a GPU. This stand-in attends within each run and window, one run after the other."""
    windows = []

    def attend(
        q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, scale: float | None, window: int | None
    ) -> Tensor:
        windows.append(window)
        assert starts.dtype == torch.int32 and starts.diff().max() <= longest and q.shape == k.shape == v.shape
        parts = []
        for first, last in pairwise(starts.tolist()):
            place = torch.arange(last - first)
            is_near = (place[:, None] - place).abs() <= (longest if window is None else window)
            run = (x[first:last].transpose(0, 1) for x in (q, k, v))
            parts.append(sdpa(*run, is_near, scale=scale).transpose(0, 1))
        return torch.cat(parts)

    monkeypatch.setattr("train.device.attention._attend", attend)
    rows = masked_rows(5, 3)
    padded = PackedEncoder(small_encoder(model_type, attention.PADDED))(pack(rows))
    varlen = PackedEncoder(small_encoder(model_type, attention.VARLEN))(pack(rows, layout="varlen"))
    assert windows == ([None, 4, 4] if model_type == "modernbert" else [None] * 3)
    assert varlen.mlm_loss.item() == pytest.approx(padded.mlm_loss.item(), abs=1e-3)
    assert varlen.nsp_loss.item() == pytest.approx(padded.nsp_loss.item(), abs=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the variable-length kernels need a GPU")
def test_varlen_equals_padded_within_bf16() -> None:
    device = torch.device("cuda")
    rows = masked_rows(5, 3)
    batches = pack(rows).to(device), pack(rows, layout="varlen").to(device)
    models = [PackedEncoder(bert(name)).to(device) for name in (attention.PADDED, attention.VARLEN)]
    models[1].load_state_dict(copy.deepcopy(models[0].state_dict()))
    with torch.autocast("cuda", torch.bfloat16):
        padded, varlen = (float(model(batch).mlm_loss) for model, batch in zip(models, batches, strict=True))
    assert varlen == pytest.approx(padded, rel=0.01)


@pytest.mark.parametrize("name", [attention.PADDED, attention.VARLEN])
def test_attention_refuses_what_it_does_not_know(name: str) -> None:
    """Another architecture's cap on scores must not be ignored; what changes nothing here passes."""
    function = AttentionInterface()[name]
    x = torch.zeros(SHAPE.rows, 4, ROW_TOKENS, 16)
    for others in ({"s_aux": x}, {"softcap": 30.0}, {"is_causal": True}, {"head_mask": x}):
        with pytest.raises(TypeError, match=f"does not support {next(iter(others))}="):
            function(nn.Module(), x, x, x, None, batch=pack(masked_rows(2)), **others)
    if name == attention.PADDED:
        out, _ = function(nn.Module(), x, x, x, None, batch=pack(masked_rows(2)), position_ids=x, use_cache=True)
        assert out.shape == (SHAPE.rows, ROW_TOKENS, 4, 16)


@pytest.mark.parametrize("window", [2, 3, 4, 6, 7, 8, 20])
def test_blocks_are_the_mask_over_the_whole_sequence(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output and gradients of local attention, for windows that divide the longest sequence and others."""
    batch = pack(masked_rows(5, 3))
    assert batch.slots is not None
    results = []
    for in_blocks in (True, False):
        monkeypatch.setattr(attention, "is_worth_it", lambda *_, answer=in_blocks: answer)
        torch.manual_seed(0)
        query, key, value = (torch.randn(SHAPE.rows, heads, ROW_TOKENS, 8, requires_grad=True) for heads in (4, 2, 2))
        out, _ = AttentionInterface()[attention.PADDED](
            nn.Module(), query, key, value, None, batch=batch, sliding_window=window
        )
        (out * torch.linspace(0, 1, out.numel()).view_as(out)).sum().backward()
        is_token = torch.zeros(batch.input_ids.numel(), dtype=torch.bool)
        is_token[batch.slots.token_of_slot[batch.slots.is_token.view(-1)]] = True
        results.append([out.flatten(0, 1)[is_token], *(x.grad for x in (query, key, value))])
    for blocks, whole in zip(*results, strict=True):
        torch.testing.assert_close(blocks, whole, rtol=1e-5, atol=1e-5)

"""Attention within sequences: the variable-length kernels are told where those begin, and nothing is ignored."""

import copy
from itertools import pairwise

import pytest
import torch
from batches import SHAPE, bert, masked_rows, pack
from datasets_of_rows import ROW_TOKENS
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


def test_varlen_is_told_the_right_boundaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock: the kernels need a GPU. This stand-in attends within each run, one after the other."""

    def attend(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, scale: float, window: int | None) -> Tensor:
        assert window is None
        assert starts.dtype == torch.int32 and starts.diff().max() <= longest
        runs = [slice(first, last) for first, last in pairwise(starts.tolist()) if last > first]
        parts = [sdpa(*(x[run].transpose(0, 1) for x in (q, k, v)), scale=scale).transpose(0, 1) for run in runs]
        return torch.cat(parts)

    monkeypatch.setattr("train.device.attention._attend", attend)
    rows = masked_rows(5, 3)
    padded = PackedEncoder(bert(attention.PADDED)).train()(pack(rows))
    varlen = PackedEncoder(bert(attention.VARLEN)).train()(pack(rows, layout="varlen"))
    assert varlen.mlm_loss.item() == pytest.approx(padded.mlm_loss.item(), abs=1e-4)
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

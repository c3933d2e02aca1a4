"""bf16: what flows between layers is bf16, weights and losses are not, and training hardly notices."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from batches import SHAPE, bert, masked_rows, pack
from datasets_of_rows import ROW_TOKENS
from launch import metrics, run, tiny
from rows_of_ids import VOCAB_SIZE
from small_encoders import small_encoder
from torch import Tensor, nn
from transformers import BertConfig, BertForPreTraining

from train.device import attention
from train.device.precision import HALF, stream_in_half
from train.models.families import FAMILIES, norms_of
from train.models.packed import PackedEncoder


def half() -> torch.autocast:
    return torch.autocast("cpu", HALF)


def outputs(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What each module returns in a forward pass, if it has a row of features for each token."""
    seen: list[tuple[str, Tensor]] = []
    shape = (SHAPE.rows, ROW_TOKENS)

    def record(name: str) -> object:
        def hook(_: nn.Module, __: object, output: object) -> None:
            value = output[0] if isinstance(output, tuple) else output
            if isinstance(value, Tensor) and value.is_floating_point() and value.shape[:2] == shape:
                seen.append((name, value))

        return hook

    hooks = [module.register_forward_hook(record(name)) for name, module in model.named_modules()]  # type: ignore[arg-type]
    with half():
        model(pack(masked_rows(5, 3)))
    for hook in hooks:
        hook.remove()
    yield from seen


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_nothing_between_layers_is_fp32(model_type: str, training: bool) -> None:
    """Embeddings are looked up and added up in fp32, and rotary tables are fp32: only what leaves a part is bf16."""
    packed = PackedEncoder(small_encoder(model_type, attention.PADDED)).train(training)
    lookups = {name for name, module in packed.named_modules() if isinstance(module, nn.Embedding) and "." in name}
    before = {name for name, value in outputs(packed) if value.dtype == torch.float32}
    assert before - lookups, "autocast alone leaves some in fp32"
    stream_in_half(packed.encoder)
    inside = ("embeddings.", "rotary", "rotate")
    after = {
        name: value.dtype for name, value in outputs(packed) if not any(part in name for part in inside) and name not in lookups
    }
    assert set(after.values()) == {HALF} and len(after) > 10, after
    assert all(parameter.dtype == torch.float32 for parameter in packed.parameters())


def mini() -> PackedEncoder:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=ROW_TOKENS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config._attn_implementation = attention.PADDED
    return PackedEncoder(BertForPreTraining(config)).train()


def gradient(model: PackedEncoder, in_half: bool) -> Tensor:
    batch = pack(masked_rows(6, 2))
    with torch.autocast("cpu", HALF, enabled=in_half):
        sums = model(batch)
    assert sums.mlm_loss.dtype == torch.float32
    (sums.mlm_loss / batch.masked + sums.nsp_loss / batch.pairs).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def test_the_gradient_is_within_a_hundredth_of_that_in_fp32() -> None:
    model = mini()
    stream_in_half(model.encoder)
    exact, rounded = gradient(mini(), in_half=False), gradient(model, in_half=True)
    assert 1e-3 < (rounded - exact).norm() / exact.norm() < 1e-2


def test_every_norm_is_cast() -> None:
    encoder = bert(attention.PADDED)
    norms = norms_of(encoder)
    assert {id(norm) for norm in norms} == {id(m) for m in encoder.modules() if isinstance(m, nn.LayerNorm | nn.RMSNorm)}
    stream_in_half(encoder)
    x = torch.randn(2, 64)
    assert all(norm(x).dtype == HALF for norm in norms)


def curve(data: Path, out: Path, steps: int, *flags: object) -> Tensor:
    flags = ("--steps", steps, "--log-every", max(1, steps // 30), "--eval-rows", 8, *flags)
    code, _, err = run(0, *tiny(data, out, every=0)[:6], "--global-batch", 12, "--micro-batch", 12, "--lr", 1e-3, *flags)
    assert code == 0, err
    return torch.tensor([line["mlm_loss"] for line in metrics(out)])


def test_a_run_in_bf16_learns_as_one_in_fp32(random_data: Path, tmp_path: Path) -> None:
    exact, rounded = (curve(random_data, tmp_path / name, 6, "--precision", name) for name in ("fp32", "bf16"))
    assert 0 < (exact - rounded).abs().max() < 0.01


@pytest.mark.long
def test_a_curve_in_bf16_is_within_the_noise_of_two_seeds(random_data: Path, tmp_path: Path) -> None:
    """300 steps: bf16 differs from fp32 by less than another seed does."""
    exact = curve(random_data, tmp_path / "fp32", 300, "--precision", "fp32")
    rounded = curve(random_data, tmp_path / "bf16", 300, "--precision", "bf16")
    other = curve(random_data, tmp_path / "seed", 300, "--precision", "fp32", "--seed", 1)
    assert (exact - rounded).abs().mean() < (exact - other).abs().mean()
    assert abs(exact[-5:].mean() - rounded[-5:].mean()) < 0.05

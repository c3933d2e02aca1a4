"""Every family on packed rows is transformers' own padded model: hidden states, losses, and every gradient."""

from typing import Any

import pytest
import torch
from batches import masked_rows, pack
from parity import TOLERANCE, check, gradients, packed_outputs, padded_outputs
from small_encoders import SWITCHES, small_encoder
from torch import nn
from torch._dynamo.utils import counters

from train.device import attention
from train.device.compiling import compile_model, undo
from train.device.memory import keep_inputs_only
from train.device.precision import stream_in_half
from train.models.families import FAMILIES, layers_of, norms_of
from train.models.packed import PackedEncoder

families = pytest.mark.parametrize("model_type", FAMILIES)


@families
def test_losses_hidden_states_and_every_gradient_equal_the_padded_model(model_type: str) -> None:
    check(model_type)


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("albert", {"num_hidden_groups": 3, "inner_group_num": 2}),
        ("distilbert", {"sinusoidal_pos_embds": True}),
        ("electra", {"embedding_size": 32}),
        ("esm", {"position_embedding_type": "absolute", "emb_layer_norm_before": True}),
        ("esm", {"token_dropout": False}),
        ("eurobert", {"head_dim": 16, "tie_word_embeddings": True}),
        ("modernbert", {"local_attention": 16, "attention_bias": True, "mlp_bias": True}),
        ("modernbert", {"tie_word_embeddings": False, "decoder_bias": False}),
        ("nomic_bert", {"type_vocab_size": 1}),
        ("roberta", {"type_vocab_size": 2}),
    ],
)
def test_other_switches_too(model_type: str, changes: dict[str, Any]) -> None:
    check(model_type, **changes)


@families
def test_the_naive_way_fails_that_test(model_type: str) -> None:
    """Positions that restart, but attention over the whole row: neighbours are seen, and the loss shows it."""
    rows = masked_rows(5, 3)
    encoder = small_encoder(model_type)
    encoder.base_model.register_forward_pre_hook(_without_boundaries, with_kwargs=True)
    _, loss = packed_outputs(PackedEncoder(encoder), pack(rows))
    _, their_loss = padded_outputs(small_encoder(model_type), rows)
    assert abs(loss.item() - their_loss.item()) > 100 * TOLERANCE


def _without_boundaries(_: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {name: value for name, value in inputs.items() if name != "batch"}


@families
def test_every_layer_calls_the_attention_function(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AttentionInterface

    calls = []
    function = AttentionInterface()[attention.PADDED]

    def counted(*args: Any, **others: Any) -> Any:
        calls.append(others.get("sliding_window"))
        return function(*args, **others)

    AttentionInterface.register("counted", counted)
    encoder = small_encoder(model_type, "counted")
    PackedEncoder(encoder).hidden_states(pack(masked_rows(2)))
    assert len(calls) == encoder.config.num_hidden_layers == 3
    assert calls == ([None, 5, 5] if model_type == "modernbert" else [None] * 3)


@families
def test_layers_and_norms_are_found(model_type: str) -> None:
    encoder = small_encoder(model_type)
    layers = layers_of(encoder)
    assert len(layers) == (1 if model_type == "albert" else 3)
    assert len({type(layer) for layer in layers}) == 1
    norms = norms_of(encoder)
    assert len(norms) > len(layers) and not any(list(norm.children()) for norm in norms)


def test_every_family_has_its_switches() -> None:
    assert set(SWITCHES) == set(FAMILIES)


@families
def test_bf16_between_layers_stays_near(model_type: str) -> None:
    batch, losses = pack(masked_rows(5, 3)), []
    for half in (False, True):
        encoder = small_encoder(model_type, attention.PADDED)
        if half:
            stream_in_half(encoder)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            sums = PackedEncoder(encoder)(batch)
        (sums.mlm_loss + sums.nsp_loss).backward()
        assert all(torch.isfinite(gradient).all() for gradient in gradients(encoder).values())
        losses.append(sums.mlm_loss.item())
    assert losses[0] != losses[1], "bf16 was used"
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)


@families
def test_layers_that_are_computed_twice_give_the_same_gradients(model_type: str) -> None:
    results = []
    for twice in (False, True):
        encoder = small_encoder(model_type, attention.PADDED)
        if twice:
            keep_inputs_only(encoder)
        sums = PackedEncoder(encoder)(pack(masked_rows(5, 3)))
        (sums.mlm_loss + sums.nsp_loss).backward()
        results.append(gradients(encoder))
    assert all(torch.equal(gradient, results[1][name]) for name, gradient in results[0].items())


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns about itself
@families
def test_layers_compile_without_a_break(model_type: str) -> None:
    torch._dynamo.reset()
    counters.clear()
    encoder = small_encoder(model_type, attention.PADDED)
    packed, batch = PackedEncoder(encoder), pack(masked_rows(5, 3))
    plain = packed(batch).mlm_loss.item()
    compile_model(packed, encoder, "layers", backend="aot_eager")
    assert packed(batch).mlm_loss.item() == pytest.approx(plain, rel=1e-6)
    assert not counters["graph_break"]
    undo(packed)

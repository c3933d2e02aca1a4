"""Every family on packed rows is transformers' own padded model: hidden states, losses, and every gradient."""

from typing import Any

import pytest
import torch
from batches import masked_rows, pack
from datasets_of_rows import MAX_SEQ_LEN
from rows_of_ids import SPECIAL, VOCAB_SIZE
from small_encoders import SWITCHES, small_encoder
from torch import Tensor, nn
from transformers import PreTrainedModel

from shards.schema import Rows
from train.data.batch import PackedBatch, pad_batch
from train.device import attention
from train.models.families import FAMILIES, family_of, layers_of, norms_of, num_token_types, unused_parameters
from train.models.packed import PackedEncoder

TOLERANCE = 1e-5
families = pytest.mark.parametrize("model_type", FAMILIES)


def padded_outputs(encoder: PreTrainedModel, rows: Rows) -> tuple[Tensor, Tensor]:
    """transformers' own forward pass, one sequence a row: hidden states of all tokens, and the loss."""
    batch = pad_batch(rows, MAX_SEQ_LEN, SPECIAL["pad"])
    inputs: dict[str, Any] = {name: batch[name] for name in ("input_ids", "attention_mask")}
    if num_token_types(encoder.config) > 1:
        inputs["token_type_ids"] = batch["token_type_ids"]
    out = encoder(**inputs, output_hidden_states=True)
    logits = out.prediction_logits if "prediction_logits" in out else out.logits
    loss = nn.functional.cross_entropy(logits.view(-1, VOCAB_SIZE), batch["labels"].view(-1))
    if family_of(encoder.config).pair_head:
        pair_logits = out.sop_logits if "sop_logits" in out else out.seq_relationship_logits
        loss = loss + nn.functional.cross_entropy(pair_logits, batch["next_sentence_label"])
    hidden = encoder.base_model(**inputs).last_hidden_state
    return hidden[batch["attention_mask"].bool()], loss


def packed_outputs(model: PackedEncoder, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """The same of the packed model."""
    sums = model(batch)
    loss = sums.mlm_loss / batch.masked + sums.nsp_loss / max(1, batch.pairs)
    is_token = torch.zeros(batch.input_ids.numel(), dtype=torch.bool)
    assert batch.slots is not None
    is_token[batch.slots.token_of_slot[batch.slots.is_token.view(-1)]] = True
    return model.hidden_states(batch)[is_token.view_as(batch.input_ids)], loss


def gradients(encoder: PreTrainedModel) -> dict[str, Tensor]:
    return {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}


@families
def test_losses_hidden_states_and_every_gradient_equal_the_padded_model(model_type: str) -> None:
    encoder, padded = small_encoder(model_type, attention.PADDED), small_encoder(model_type)
    rows = masked_rows(5, 3)  # uneven counts, one row missing, sequences longer than a local window
    (hidden, loss), (their_hidden, their_loss) = (
        packed_outputs(PackedEncoder(encoder), pack(rows)),
        padded_outputs(padded, rows),
    )
    assert (hidden - their_hidden).abs().max() < TOLERANCE
    assert loss.item() == pytest.approx(their_loss.item(), abs=TOLERANCE)
    loss.backward()
    their_loss.backward()
    ours, theirs = gradients(encoder), gradients(padded)
    assert list(ours) == list(theirs)
    unused = {id(p) for p in unused_parameters(encoder)}
    assert set(ours) == {name for name, p in encoder.named_parameters() if id(p) not in unused and p.requires_grad}
    whole = torch.cat([gradient.view(-1) for gradient in theirs.values()]).norm()
    for name, gradient in ours.items():
        assert (gradient - theirs[name]).norm() < TOLERANCE * whole, name


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

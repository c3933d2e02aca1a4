"""A family's packed model against transformers' own padded one."""

from typing import Any

import pytest
import torch
from batches import masked_rows, pack
from datasets_of_rows import MAX_SEQ_LEN
from rows_of_ids import SPECIAL, VOCAB_SIZE
from small_encoders import small_encoder
from torch import Tensor, nn
from transformers import PreTrainedModel

from shards.schema import Rows
from train.data.batch import PackedBatch, pad_batch
from train.device import attention
from train.models.families import family_of, num_token_types, unused_parameters
from train.models.packed import PackedEncoder

TOLERANCE = 1e-5


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


def check(model_type: str, **changes: Any) -> None:
    """Hidden states, losses and every gradient of a small model of the family are those of the padded one."""
    encoder, padded = small_encoder(model_type, attention.PADDED, **changes), small_encoder(model_type, **changes)
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

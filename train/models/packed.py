"""An encoder for pre-training on packed rows: transformers' own model and weights, without work on padding.

    PackedBatch -> base model, on rows as they are -> MLM head on masked tokens, pair head on [CLS] -> BatchSums

Losses are sums, because what to divide them by is known only over all micro-batches and ranks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from train.data.batch import IGNORED, PackedBatch
from train.models.families import family_of, first_position, num_token_types


@dataclass(frozen=True)
class BatchSums:
    """Sums over a micro-batch: losses in nats, float32; and, in evaluation, the number of right predictions."""

    mlm_loss: Tensor
    nsp_loss: Tensor
    mlm_right: Tensor | None = None
    nsp_right: Tensor | None = None


class PackedEncoder(nn.Module):
    """A model of `train.models.families` on packed batches. Its attention must be one of `train.device.attention`."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.most_logits: int | None = None  # of masked tokens, held at the same time

    def hidden_states(self, batch: PackedBatch) -> Tensor:
        """The last hidden states, [rows, tokens per row, features]."""
        config, family = self.encoder.config, family_of(self.encoder.config)
        inputs = {"position_ids": batch.position_ids + first_position(config)}
        embeddings_BTF = family.embed(self.encoder, batch) if family.embed else None
        if embeddings_BTF is None:
            inputs["input_ids"] = batch.input_ids
        else:
            inputs["inputs_embeds"] = embeddings_BTF
        if num_token_types(config):
            # A model with one token type reads both segments of a pair as one text.
            inputs["token_type_ids"] = batch.token_type_ids.clamp(max=num_token_types(config) - 1)
        hidden_BTF: Tensor = self.encoder.base_model(**inputs, batch=batch).last_hidden_state
        return hidden_BTF

    def forward(self, batch: PackedBatch) -> BatchSums:
        """The losses of a micro-batch.

        Shapes: B rows, T tokens per row, N = B * T, F features, M masked tokens, S sequences, V ids in the vocabulary.
        """
        family = family_of(self.encoder.config)
        hidden_NF = self.hidden_states(batch).flatten(0, 1)
        mlm_loss, mlm_right = self._masked(hidden_NF.index_select(0, batch.masked_at), batch.masked_labels)
        if family.pair_head is None:
            return BatchSums(
                mlm_loss, mlm_loss.new_zeros(()), mlm_right, None if mlm_right is None else mlm_right.new_zeros(())
            )
        logits_S2 = family.pair_head(self.encoder, hidden_NF.index_select(0, batch.cls_at))
        nsp_loss, nsp_right = self._predicted(logits_S2, batch.next_sentence_label)
        return BatchSums(mlm_loss, nsp_loss, mlm_right, nsp_right)

    def _masked(self, hidden_MF: Tensor, labels_M: Tensor) -> tuple[Tensor, Tensor | None]:
        """The summed loss of masked tokens, with no more than `most_logits` logits at a time: backward computes them again."""

        def predict(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
            return self._predicted(family_of(self.encoder.config).mlm_head(self.encoder, hidden), labels)

        vocab_size = int(self.encoder.config.vocab_size)
        if self.most_logits is None or len(labels_M) * vocab_size <= self.most_logits:
            return predict(hidden_MF, labels_M)
        size = max(1, self.most_logits // vocab_size)
        parts = [
            checkpoint(predict, hidden, labels, use_reentrant=False, preserve_rng_state=False)
            for hidden, labels in zip(torch.split(hidden_MF, size), torch.split(labels_M, size), strict=True)
        ]
        losses, right = zip(*parts, strict=True)
        return torch.stack(losses).sum(), None if self.training else torch.stack(right).sum()

    def _predicted(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """The summed loss and, in evaluation, the number of right predictions."""
        loss = cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
        return loss, None if self.training else (logits.argmax(-1) == labels).sum()

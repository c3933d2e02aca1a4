"""BERT for pre-training on packed rows: transformers' own model and weights, without work on padding.

The encoder runs on rows as they are; the MLM head only on masked positions, the NSP head on the first token of every
sequence. Losses come as sums, because what to divide by is known only over all micro-batches and ranks.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import BertForPreTraining

from train.data.batch import IGNORED, PackedBatch


@dataclass(frozen=True)
class Sums:
    """Of a micro-batch: summed losses in nats, float32; and, in evaluation, how many predictions were right."""

    mlm_loss: Tensor
    nsp_loss: Tensor
    mlm_right: Tensor | None = None
    nsp_right: Tensor | None = None


class PackedBert(nn.Module):
    """`BertForPreTraining` fed with packed batches. Its attention must be one of `train.attention`."""

    def __init__(self, bert: BertForPreTraining) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, batch: PackedBatch) -> Sums:
        """The losses of a micro-batch."""
        bert, heads = self.bert.bert, self.bert.cls
        hidden_BTF = bert.embeddings(
            input_ids=batch.input_ids, token_type_ids=batch.token_type_ids, position_ids=batch.position_ids
        )
        hidden_BTF = bert.encoder(hidden_BTF, batch=batch).last_hidden_state
        hidden_NF = hidden_BTF.view(-1, hidden_BTF.shape[-1])
        logits_MV = heads.predictions(hidden_NF.index_select(0, batch.masked_at))
        assert bert.pooler is not None
        pooled_SF = bert.pooler(hidden_NF.index_select(0, batch.cls_at)[:, None])
        logits_S2 = heads.seq_relationship(pooled_SF)
        labels = ((logits_MV, batch.masked_labels), (logits_S2, batch.next_sentence_label))
        right = () if self.training else ((logits.argmax(-1) == label).sum() for logits, label in labels)
        return Sums(*(_summed(logits, label) for logits, label in labels), *right)


def _summed(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")

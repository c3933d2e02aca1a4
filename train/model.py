"""BERT for pre-training on packed rows: transformers' own model and weights, without work on padding.

    PackedBatch -> embeddings -> encoder, on rows as they are -> MLM head on masked tokens, NSP head on [CLS] -> BatchSums

Losses are sums, because what to divide them by is known only over all micro-batches and ranks.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import BertForPreTraining

from train.data.batch import IGNORED, PackedBatch


@dataclass(frozen=True)
class BatchSums:
    """Sums over a micro-batch: losses in nats, float32; and, in evaluation, the number of right predictions."""

    mlm_loss: Tensor
    nsp_loss: Tensor
    mlm_right: Tensor | None = None
    nsp_right: Tensor | None = None


class PackedBert(nn.Module):
    """`BertForPreTraining` on packed batches. Its attention must be one of `train.attention`."""

    def __init__(self, bert: BertForPreTraining) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, batch: PackedBatch) -> BatchSums:
        """The losses of a micro-batch.

        Shapes: B rows, T tokens per row, N = B * T, F features, M masked tokens, S sequences, V ids in the vocabulary.
        """
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
        predictions = ((logits_MV, batch.masked_labels), (logits_S2, batch.next_sentence_label))
        right = () if self.training else ((logits.argmax(-1) == labels).sum() for logits, labels in predictions)
        return BatchSums(*(_summed_loss(logits, labels) for logits, labels in predictions), *right)


def _summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")

"""The table of families: what is particular about the models of each `model_type`.

Everything else is written once, for all of them: packing, attention, losses, evaluation, export.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import BertForPreTraining, PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Family:
    """One family. A head is a function of the model and of hidden states, [items, features] -> [items, classes].

    Shapes: M masked tokens, S sequences, F features, V ids in the vocabulary.
    """

    model: type[PreTrainedModel]  # with its heads for pre-training
    layers: str  # where the base model holds the layers that repeat
    mlm_head: Callable[[Any, Tensor], Tensor]  # hidden states of masked tokens [M, F] -> [M, V]
    pair_head: Callable[[Any, Tensor], Tensor] | None = None  # hidden states of first tokens [S, F] -> [S, 2]
    pair_parts: tuple[str, ...] = ()  # the modules of the pair head, which are not used for data without pairs


def _bert_pairs(encoder: BertForPreTraining, cls_SF: Tensor) -> Tensor:
    assert encoder.bert.pooler is not None
    logits_S2: Tensor = encoder.cls.seq_relationship(encoder.bert.pooler(cls_SF[:, None]))
    return logits_S2


FAMILIES = {
    "bert": Family(
        BertForPreTraining,
        layers="encoder.layer",
        mlm_head=lambda encoder, hidden_MF: encoder.cls.predictions(hidden_MF),
        pair_head=_bert_pairs,
        pair_parts=("bert.pooler", "cls.seq_relationship"),
    ),
}


def family_of(config: PreTrainedConfig) -> Family:
    """The row of the table for a configuration that `train.models.config` has accepted."""
    return FAMILIES[config.model_type]


def layers_of(encoder: PreTrainedModel) -> list[nn.Module]:
    """The layers that repeat, in their order. A layer that is used several times is listed once."""
    layers = encoder.base_model.get_submodule(family_of(encoder.config).layers)
    return list(layers.children())


def norms_of(encoder: PreTrainedModel) -> list[nn.Module]:
    """The normalizations, of layers, embeddings and heads."""
    return [module for module in encoder.modules() if type(module).__name__.endswith("Norm")]


def pair_parameters(encoder: PreTrainedModel) -> list[nn.Parameter]:
    """The parameters of the pair head."""
    parts = family_of(encoder.config).pair_parts
    return [parameter for part in parts for parameter in encoder.get_submodule(part).parameters()]

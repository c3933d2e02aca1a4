"""The table of families: what is particular about the models of each `model_type`.

Everything else is written once, for all of them: packing, attention, losses, evaluation, export. CONTRIBUTING.md adds a row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from train.data.batch import PackedBatch


@dataclass(frozen=True)
class Family:
    """One family. The functions get the model first.

    Shapes: B rows, T tokens per row, M masked tokens, S sequences, F features, V ids in the vocabulary.
    """

    model: str  # transformers' class, with its heads for pre-training
    layers: str  # where its base model holds the layers that repeat
    mlm_head: Callable[[Any, Tensor], Tensor]  # hidden states of masked tokens [M, F] -> [M, V]
    pair_head: Callable[[Any, Tensor], Tensor] | None = None  # hidden states of first tokens [S, F] -> [S, 2]
    pair_parts: tuple[str, ...] = ()  # the modules of the pair head, which are not used for data without pairs
    has_token_types: bool = False
    skips_positions: bool = False  # the first position is the one after the id of the padding token
    # What replaces the lookup of token embeddings, [B, T, F], where that looks at a whole row; None: the model's own lookup.
    embed: Callable[[Any, PackedBatch], Tensor | None] | None = None
    unused_parts: tuple[str, ...] = ()  # modules that pre-training does not use
    num_layers: str = "num_hidden_layers"  # the field of the configuration that counts `layers`

    def model_class(self) -> Any:
        """transformers' class. Raises AttributeError where an older transformers lacks it."""
        return getattr(transformers, self.model)


def _bert_pairs(encoder: Any, cls_SF: Tensor) -> Tensor:
    logits_S2: Tensor = encoder.cls.seq_relationship(encoder.base_model.pooler(cls_SF[:, None]))
    return logits_S2


def _albert_pairs(encoder: Any, cls_SF: Tensor) -> Tensor:
    base = encoder.albert
    logits_S2: Tensor = encoder.sop_classifier(base.pooler_activation(base.pooler(cls_SF)))
    return logits_S2


def _distilbert_mlm(encoder: Any, hidden_MF: Tensor) -> Tensor:
    hidden_MF = encoder.vocab_layer_norm(encoder.activation(encoder.vocab_transform(hidden_MF)))
    logits_MV: Tensor = encoder.vocab_projector(hidden_MF)
    return logits_MV


def _esm_embeddings(encoder: Any, batch: PackedBatch) -> Tensor | None:
    """ESM-2's token dropout: masks are zero, and the rest grows by the share of masks in the *sequence* (not in the row).

    As in `EsmEmbeddings.forward`, where a row is a sequence. 0.15 * 0.8 is the share in ESM's own training.
    """
    own = encoder.esm.embeddings
    if not own.token_dropout:
        return None
    is_mask_BT = batch.input_ids == own.mask_token_id
    starts = batch.run_starts.long()
    before = torch.cat([starts.new_zeros(1), is_mask_BT.view(-1).cumsum(0)])  # masks before each place
    share_K = before[starts].diff() / starts.diff().clamp(min=1)
    places = torch.arange(is_mask_BT.numel(), device=starts.device)
    run_of_place = torch.bucketize(places, starts[1:], right=True)
    factor_BT = ((1 - 0.15 * 0.8) / (1 - share_K))[run_of_place].view_as(is_mask_BT)
    embeddings_BTF = own.word_embeddings(batch.input_ids).masked_fill(is_mask_BT[..., None], 0.0) * factor_BT[..., None]
    # Given embeddings, the module adds what is left: positions (ESM-1b) and a norm.
    position_ids_BT = batch.position_ids + first_position(encoder.config)
    complete_BTF: Tensor = own(inputs_embeds=embeddings_BTF, position_ids=position_ids_BT)
    return complete_BTF


def _robertas(model: str) -> Family:
    return Family(
        model,
        layers="encoder.layer",
        mlm_head=lambda encoder, hidden_MF: encoder.lm_head(hidden_MF),
        has_token_types=True,
        skips_positions=True,
    )


def _berts(model: str, base: str) -> Family:
    return Family(
        model,
        layers="encoder.layer",
        mlm_head=lambda encoder, hidden_MF: encoder.cls.predictions(hidden_MF),
        pair_head=_bert_pairs,
        pair_parts=(f"{base}.pooler", "cls.seq_relationship"),
        has_token_types=True,
    )


FAMILIES = {
    "bert": _berts("BertForPreTraining", "bert"),
    "ernie": _berts("ErnieForPreTraining", "ernie"),
    "roberta": _robertas("RobertaForMaskedLM"),
    "xlm-roberta": _robertas("XLMRobertaForMaskedLM"),
    "xlm-roberta-xl": _robertas("XLMRobertaXLForMaskedLM"),
    "camembert": _robertas("CamembertForMaskedLM"),
    "roberta-prelayernorm": _robertas("RobertaPreLayerNormForMaskedLM"),
    "albert": Family(
        "AlbertForPreTraining",
        layers="encoder.albert_layer_groups",
        mlm_head=lambda encoder, hidden_MF: encoder.predictions(hidden_MF),
        pair_head=_albert_pairs,
        pair_parts=("albert.pooler", "sop_classifier"),
        has_token_types=True,
        num_layers="num_hidden_groups",
    ),
    "electra": Family(
        "ElectraForMaskedLM",
        layers="encoder.layer",
        mlm_head=lambda encoder, hidden_MF: encoder.generator_lm_head(encoder.generator_predictions(hidden_MF)),
        has_token_types=True,
    ),
    "distilbert": Family("DistilBertForMaskedLM", layers="transformer.layer", mlm_head=_distilbert_mlm),
    "modernbert": Family(
        "ModernBertForMaskedLM",
        layers="layers",
        mlm_head=lambda encoder, hidden_MF: encoder.decoder(encoder.head(hidden_MF)),
    ),
    "eurobert": Family(
        "EuroBertForMaskedLM",
        layers="layers",
        mlm_head=lambda encoder, hidden_MF: encoder.lm_head(hidden_MF),
    ),
    "nomic_bert": Family(
        "NomicBertForMaskedLM",
        layers="layers",
        mlm_head=lambda encoder, hidden_MF: encoder.cls(hidden_MF),
        has_token_types=True,
    ),
    "esm": Family(
        "EsmForMaskedLM",
        layers="encoder.layer",
        mlm_head=lambda encoder, hidden_MF: encoder.lm_head(hidden_MF),
        skips_positions=True,
        embed=_esm_embeddings,
        unused_parts=("esm.contact_head",),
    ),
}

# Families whose attention transformers does not let us replace, and why: their sequences would see each other in a row.
UNPACKABLE = {
    "convbert": "its convolutions reach over the ends of sequences",
    "deberta": "its attention computes relative positions itself",
    "deberta-v2": "its attention computes relative positions itself",
    "fnet": "it mixes all tokens of a row",
    "funnel": "it pools neighbouring tokens of a row",
    "mpnet": "its attention computes relative positions itself",
}


def family_of(config: PreTrainedConfig) -> Family:
    """The row of the table for a configuration that `train.models.config` has accepted."""
    return FAMILIES[config.model_type]


def first_position(config: PreTrainedConfig) -> int:
    """The position of a sequence's first token."""
    return int(config.pad_token_id) + 1 if family_of(config).skips_positions else 0


def max_positions(config: PreTrainedConfig) -> int:
    """Tokens of the longest sequence that the model can take."""
    return int(config.max_position_embeddings) - first_position(config)


def num_token_types(config: PreTrainedConfig) -> int:
    """The number of token types, 0 for a model without."""
    return int(config.type_vocab_size) if family_of(config).has_token_types else 0


def layers_of(encoder: PreTrainedModel) -> list[nn.Module]:
    """The layers that repeat, in their order. A layer that is used several times is listed once."""
    layers = encoder.base_model.get_submodule(family_of(encoder.config).layers)
    return list(layers.children())


def norms_of(encoder: PreTrainedModel) -> list[nn.Module]:
    """The normalizations, of layers, embeddings and heads."""
    return [module for module in encoder.modules() if type(module).__name__.endswith("Norm")]


def windows_of(encoder: PreTrainedModel) -> list[int | None]:
    """For each layer in use: None, or the window of its local attention, which compares tokens at distances below it."""
    layers, num_layers = layers_of(encoder), int(encoder.config.num_hidden_layers)
    return [_window(layers[number * len(layers) // num_layers]) for number in range(num_layers)]


def _window(layer: nn.Module) -> int | None:
    windows = (getattr(part, "sliding_window", None) for part in layer.modules())
    return next((int(window) for window in windows if window), None)


def window_of(encoder: PreTrainedModel) -> int:
    """The window of the layers with local attention; 0 if there are none."""
    return max(window or 0 for window in windows_of(encoder))


def attention_features(config: PreTrainedConfig) -> int:
    """Features of all heads of a query."""
    heads = int(config.num_attention_heads)
    return heads * int(getattr(config, "head_dim", None) or config.hidden_size // heads)


def pair_parameters(encoder: PreTrainedModel) -> list[nn.Parameter]:
    """The parameters of the pair head."""
    return _parameters(encoder, family_of(encoder.config).pair_parts)


def unused_parameters(encoder: PreTrainedModel) -> list[nn.Parameter]:
    """The parameters that get no gradient in pre-training."""
    return _parameters(encoder, family_of(encoder.config).unused_parts)


def saved_tensors(encoder: PreTrainedModel) -> dict[str, Tensor]:
    """What a checkpoint holds of the model: its parameters, tied ones once, and the buffers that transformers saves too."""
    saved = encoder.state_dict().keys()
    return dict(encoder.named_parameters()) | {name: buffer for name, buffer in encoder.named_buffers() if name in saved}


def _parameters(encoder: PreTrainedModel, parts: tuple[str, ...]) -> list[nn.Parameter]:
    return [parameter for part in parts for parameter in encoder.get_submodule(part).parameters()]

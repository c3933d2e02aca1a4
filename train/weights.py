"""`--model`: a BERT from scratch, by size or configuration, or pretrained weights; checked against the data set.

name -> configuration -> fits the data set? same tokenizer? -> weights -> BertForPreTraining
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import BertConfig, BertForPreTraining

from shards import storage
from shards.errors import UserError
from shards.manifest import Manifest
from shards.randomness import Purpose, address
from train.checkpoint import CONFIG, copy_tensors
from train.data.tokenizer import compare_tokenizers, model_file

# Layers and features: BERT's own two sizes and the smaller ones of Turc et al. 2019 (arXiv:1908.08962). Heads of 64 features.
SHAPES = {"tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512), "base": (12, 768), "large": (24, 1024)}

_MAX_LAYERS = 1000
_WEIGHTS_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")
_LAYER = re.compile(r"bert\.encoder\.layer\.\d+\.output\.dense\.weight")
# Fields of config.json that are passed over: attentions, which may be code on a hub; how transformers' own forward pass splits
# its work and what it returns; and the labels of classifiers, of which transformers makes a table at once.
_IGNORED_KEYS = (
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "chunk_size_feed_forward",
    "return_dict",
    "torchscript",
    "output_attentions",
    "output_hidden_states",
    "num_labels",
    "id2label",
    "label2id",
)


def quiet() -> None:
    """Silences transformers: the commands report on loading themselves, in one line."""
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # here and below: transformers' own
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def make_bert(name: str, manifest: Manifest, data_url: str, dropout: float, seed: int) -> tuple[BertForPreTraining, list[str]]:
    """The model of `--model`, and messages for the user.

    Raises UserError for an unknown name, for weights of another kind, and when model and data set do not fit.
    """
    torch.manual_seed(int(address(seed, Purpose.INITIAL_WEIGHTS)) >> 1)
    probabilities = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    path = Path(name)
    if name in SHAPES or path.is_file():
        config = _shape(name, manifest) if name in SHAPES else _config(path)
        config.update(probabilities)
        check_fit(name, config, manifest)
        bert = _new(f"--model {name}", config)
        return bert, [f"{name}: {_millions(bert)} parameters, from scratch"]
    config = _pretrained_config(name)
    config.update(probabilities)
    check_fit(name, config, manifest)
    messages = list(compare_tokenizers(name, data_url, manifest))
    bert, info = _pretrained_weights(name, config)
    missing = sorted(key for key in info["missing_keys"] if _head(key) is None)
    if missing:
        raise UserError(
            f"--model {name}: its weights are not those of a BERT: {len(missing)} are missing, such as {missing[0]}"
        )
    fresh = sorted({str(_head(key)) for key in info["missing_keys"]})
    from_scratch = f"; from scratch: {', '.join(fresh)}" if fresh else ""
    messages.append(f"{name}: {_millions(bert)} parameters, pretrained{from_scratch}")
    return bert, messages


def bert_of(config_json: bytes, tensors: dict[str, torch.Tensor], url: str) -> BertForPreTraining:
    """The model of the checkpoint at `url`, from its config.json and its tensors. Raises UserError when they do not fit."""
    place = storage.join(url, CONFIG)
    config = _parse_config(config_json, place)
    # Layers are counted, and shapes compared on torch's meta device, before memory is allocated for what the file asks.
    num_layers = sum(bool(_LAYER.fullmatch(name)) for name in tensors)
    if config.num_hidden_layers != num_layers:
        raise UserError(f"{place}: num_hidden_layers is {config.num_hidden_layers}, the checkpoint has weights of {num_layers}")
    with torch.device("meta"):
        shapes = dict(_new(place, config).named_parameters())
    for name, parameter in shapes.items():
        if name not in tensors or tensors[name].shape != parameter.shape:
            raise UserError(f"{place}: needs {name} of shape {list(parameter.shape)}, which the checkpoint does not have")
    bert = _new(place, config)
    copy_tensors(dict(bert.named_parameters()), tensors, url)
    return bert


def _new(name: str, config: BertConfig) -> BertForPreTraining:
    # A configuration may name an attention on the hub, which transformers would fetch and run. Ours is set later.
    config._attn_implementation = "sdpa"
    try:
        return BertForPreTraining(config)
    except Exception as error:  # values that contradict each other fail in many ways
        raise UserError(f"{name}: its configuration makes no model ({error!r}); correct it") from error


def _shape(name: str, manifest: Manifest) -> BertConfig:
    layers, features = SHAPES[name]
    return BertConfig(
        vocab_size=manifest.tokenizer["vocab_size"],
        hidden_size=features,
        num_hidden_layers=layers,
        num_attention_heads=features // 64,
        intermediate_size=4 * features,
        max_position_embeddings=max(512, longest_sequence(manifest)),
        pad_token_id=manifest.tokenizer["special_ids"]["pad"],
    )


def longest_sequence(manifest: Manifest) -> int:
    """Tokens of the longest sequence of the data set, which may be far below the setting `max_seq_len`."""
    return max(split.totals()["max_sequence_tokens"] for split in manifest.splits.values())


def _config(path: Path) -> BertConfig:
    return _parse_config(path.read_bytes(), f"--model {path}")


def _parse_config(data: bytes, place: str) -> BertConfig:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON: {error}") from error
    is_config = isinstance(values, dict) and {"hidden_size", "num_hidden_layers"} <= values.keys()
    if not is_config or values.get("model_type", "bert") != "bert":
        raise UserError(f"{place}: is not the configuration of a BERT model (hidden_size, num_hidden_layers, ...)")
    return _make_config(values, place)


def _make_config(values: dict[str, Any], place: str) -> BertConfig:
    try:
        config = BertConfig.from_dict({name: value for name, value in values.items() if name not in _IGNORED_KEYS})
    except Exception as error:  # the library checks values with errors of many kinds
        raise UserError(f"{place}: transformers refuses the configuration: {' '.join(str(error).split())}") from error
    return config


def check_fit(name: str, config: BertConfig, manifest: Manifest) -> None:
    """Raises UserError when the model cannot be trained on the data set."""
    vocab_size, longest = manifest.tokenizer["vocab_size"], longest_sequence(manifest)
    if vocab_size > config.vocab_size:
        raise UserError(
            f"--model {name}: has {config.vocab_size} ids, the data set has {vocab_size}; build it with the model's tokenizer"
        )
    if longest > config.max_position_embeddings:
        raise UserError(
            f"--model {name}: has {config.max_position_embeddings} positions, the data set has sequences of up to {longest} "
            f"tokens; build it with --max-seq-len {config.max_position_embeddings} or less"
        )
    if config.is_decoder or not 1 <= config.num_hidden_layers <= _MAX_LAYERS:
        raise UserError(
            f"--model {name}: must be an encoder (is_decoder false) of 1 to {_MAX_LAYERS} layers; correct its config.json"
        )
    pad_id = manifest.tokenizer["special_ids"]["pad"]
    if config.pad_token_id not in (None, pad_id):
        raise UserError(
            f"--model {name}: its pad_token_id is {config.pad_token_id}, the data set's {pad_id}; correct its config.json"
        )
    if config.type_vocab_size < 2:
        raise UserError(f"--model {name}: has {config.type_vocab_size} token types, sentence pairs need 2")


def _pretrained_config(name: str) -> BertConfig:
    values, _ = _pretrained(name, lambda: BertConfig.get_config_dict(name))
    if not isinstance(values, dict):  # whatever JSON the file holds
        raise UserError(f"--model {name}: its config.json is a {type(values).__name__}, not an object with fields")
    if values.get("model_type", "bert") != "bert":
        raise UserError(f"--model {name}: is a {values['model_type']} model, must be a BERT one")
    return _make_config(values, f"--model {name}")


def _pretrained(name: str, load: Callable[[], Any]) -> Any:
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UserError(f"--model {name}: the folder has no config.json; use one that transformers saved")
    if not folder.exists() and ("://" in name or name.startswith((".", "/")) or name.count("/") > 1):
        raise UserError(f"--model {name}: no such file or folder, no size ({', '.join(SHAPES)}), and not a hub name")
    try:
        return load()
    except Exception as error:  # the library and the hub raise errors of many kinds
        reason = " ".join(str(error).split())[:300]
        place = "check the folder" if folder.exists() else "check the name and the network, or use a folder or a size"
        raise UserError(f"--model {name}: cannot be loaded ({reason}); {place}") from error


def _pretrained_weights(name: str, config: BertConfig) -> tuple[BertForPreTraining, dict[str, Any]]:
    """The model and transformers' report on what was loaded. From safetensors only: a pickle can run code."""
    folder = Path(name)
    if folder.is_dir() and not list(folder.glob("*.safetensors")):
        raise UserError(
            f"--model {name}: the folder has no *.safetensors; load its weights with transformers where you trust them, and "
            "save them again with save_pretrained"
        )
    _check_index(name)
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # transformers would ask a service on the hub to convert them
    options: dict[str, Any] = {
        "use_safetensors": True,
        "attn_implementation": "sdpa",
        "dtype": torch.float32,
        "output_loading_info": True,
    }
    bert, info = _pretrained(name, lambda: BertForPreTraining.from_pretrained(name, config=config, **options))
    return bert, info


def _check_index(name: str) -> None:
    """Weights in several files have an index. transformers opens whatever it names, pickles too, so it is checked first."""
    index = model_file(name, "model.safetensors.index.json")
    if index is None:
        return
    try:
        files = set(json.loads(index.read_bytes())["weight_map"].values())
        odd = sorted(file for file in files if not _WEIGHTS_NAME.fullmatch(file))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"--model {name}: {index.name} is damaged ({error!r}); save the model again") from error
    if odd:
        raise UserError(f"--model {name}: {index.name} names {odd[0][:100]!r}, which is no safetensors file of the folder")


def _head(key: str) -> str | None:
    parts = {"cls.predictions": "the MLM head", "cls.seq_relationship": "the NSP head", "bert.pooler": "the pooler"}
    return next((name for start, name in parts.items() if key.startswith(start)), None)


def _millions(bert: BertForPreTraining) -> str:
    return f"{sum(p.numel() for p in bert.parameters()) / 1e6:.1f} M"

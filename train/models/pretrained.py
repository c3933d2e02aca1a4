"""Pretrained weights, from a folder or the hub: safetensors only, because a pickle can run code."""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from shards import storage
from shards.errors import UserError
from shards.tokenizer_check import MAX_BYTES
from train.data.tokenizer import model_file
from train.models.config import freeze_unused, make_config
from train.models.families import Family, family_of
from train.models.sizes import SIZES

_WEIGHTS_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")


def pretrained_config(name: str) -> PreTrainedConfig:
    """The configuration of a folder or of a model on the hub. Raises UserError."""
    _check_files(name)
    values, _ = _loaded(name, lambda: PreTrainedConfig.get_config_dict(name))
    if not isinstance(values, dict):  # whatever JSON the file holds
        raise UserError(f"--model {name}: its config.json is a {type(values).__name__}, not an object with fields")
    return make_config(values, f"--model {name}")


def pretrained_weights(name: str, config: PreTrainedConfig) -> tuple[PreTrainedModel, list[str]]:
    """The model, and its heads that the weights lack. Raises UserError."""
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
    family = family_of(config)
    encoder, info = _loaded(name, lambda: family.model_class().from_pretrained(name, config=config, **options))
    parameters = {name for name, _ in encoder.named_parameters()}  # transformers computes buffers that a file lacks
    missing = sorted(key for key in info["missing_keys"] if key in parameters and not _is_of_a_head(key, family))
    if missing:
        raise UserError(
            f"--model {name}: its weights are not those of a {config.model_type} model: {len(missing)} are missing, such as "
            f"{missing[0]}"
        )
    freeze_unused(encoder)
    return encoder, sorted(set(_heads(info["missing_keys"], family)))


def _loaded(name: str, load: Callable[[], Any]) -> Any:
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UserError(f"--model {name}: the folder has no config.json; use one that transformers saved")
    if not folder.exists() and ("://" in name or name.startswith((".", "/")) or name.count("/") > 1):
        raise UserError(f"--model {name}: no such file or folder, no size ({', '.join(SIZES)}), and not a hub name")
    try:
        return load()
    except Exception as error:  # the library and the hub raise errors of many kinds
        reason = " ".join(str(error).split())[:300]
        place = "check the folder" if folder.exists() else "check the name and the network, or use a folder or a size"
        raise UserError(f"--model {name}: cannot be loaded ({reason}); {place}") from error


def _check_files(name: str) -> None:
    """transformers reads configurations of several names from a folder, whole and whatever they are."""
    for path in Path(name).glob("*.json") if Path(name).is_dir() else ():
        if path.name == "adapter_config.json":  # with peft installed, transformers loads the model that it names
            raise UserError(f"--model {name}: is an adapter ({path.name}); merge it into its model, and save that")
        if not path.is_file():
            raise UserError(f"--model {name}: {path.name} is no regular file; remove it")
        if (num_bytes := path.stat().st_size) > MAX_BYTES:
            raise UserError(f"--model {name}: {path.name} has {num_bytes} bytes, at most {MAX_BYTES} are allowed; replace it")


def _check_index(name: str) -> None:
    """Weights in several files have an index. transformers opens whatever it names, pickles too, so it is checked first."""
    index = model_file(name, "model.safetensors.index.json")
    if index is None:
        return
    try:
        files = set(json.loads(storage.read_small(str(index)))["weight_map"].values())
        odd = sorted(file for file in files if not _WEIGHTS_NAME.fullmatch(file))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"--model {name}: {index.name} is damaged ({error!r}); save the model again") from error
    if odd:
        raise UserError(f"--model {name}: {index.name} names {odd[0][:100]!r}, which is no safetensors file of the folder")


def _is_of_a_head(key: str, family: Family) -> bool:
    is_in_base = key.startswith(f"{family.model_class().base_model_prefix}.")
    return not is_in_base or key.startswith((*family.pair_parts, *family.unused_parts))


def _heads(keys: Sequence[str], family: Family) -> Iterator[str]:
    """The heads that these weights belong to."""
    for key in keys:
        if key.startswith(family.unused_parts) or not _is_of_a_head(key, family):
            continue
        yield "the pair head" if key.startswith(family.pair_parts) else "the MLM head"

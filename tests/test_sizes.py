"""`--model NAME`: every name makes a model that the data set fits; the published sizes have the published parameters."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from launch import run

from shards.dataset import open_data_set
from shards.manifest import Manifest
from train.models.config import check_fit, new_encoder
from train.models.families import max_positions
from train.models.sizes import SIZES, config_of_size


def with_vocabulary(manifest: Manifest, size: int) -> Manifest:
    return replace(manifest, tokenizer=manifest.tokenizer | {"vocab_size": size})


@pytest.mark.parametrize("name", SIZES)
def test_every_name_makes_a_model_that_fits(name: str, random_data: Path) -> None:
    manifest = open_data_set(str(random_data))
    config = config_of_size(name, manifest)
    check_fit(name, config, manifest, ignores_pairs=True)
    assert max_positions(config) == {"modernbert": 8192, "esm": 1024}.get(config.model_type, 512)
    with torch.device("meta"):
        encoder = new_encoder(name, config)
    assert encoder.config.num_hidden_layers == SIZES[name][1]


# Millions of parameters as their papers and cards have them, with the vocabulary of each.
PUBLISHED = {
    "bert-base": (30522, 110),
    "bert-large": (30522, 336),
    "roberta-base": (50265, 125),
    "roberta-large": (50265, 355),
    "albert-base": (30000, 12),
    "albert-large": (30000, 18),
    "modernbert-base": (50368, 149),
    "modernbert-large": (50368, 395),
    "esm2-8m": (33, 7.5),
    "esm2-35m": (33, 33.5),
    "esm2-150m": (33, 148),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str, random_data: Path) -> None:
    vocab_size, millions = PUBLISHED[name]
    manifest = with_vocabulary(open_data_set(str(random_data)), vocab_size)
    with torch.device("meta"):
        encoder = new_encoder(name, config_of_size(name, manifest))
    assert sum(p.numel() for p in encoder.base_model.parameters()) / 1e6 == pytest.approx(millions, rel=0.03, abs=0.5)


def test_the_help_names_every_kind() -> None:
    code, out, _ = run(0, "--help")
    words = out.replace(",", " ").split()
    for name in SIZES:
        prefix, _, size = name.rpartition("-")
        assert code == 0 and (f"{prefix}-SIZE" in words or prefix in ("", "bert")), name
        assert prefix or size in words

"""A run without a checkpoint, made from the settings of its phases. Ranks do not communicate here.

Settings -> manifests -> phases -> model, attention -> optimizer -> Run
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from shards import storage
from shards.errors import UserError
from shards.tokenizer_check import MAX_BYTES
from train.data.cache import Cache
from train.data.layout import Shape
from train.data.memory import require_reader, require_step
from train.data.prefetch import not_cached, open_cache
from train.data.shard_uses import lanes_in_phase
from train.data.tokenizer import check_vocabulary
from train.device import attention, compiling, kernels
from train.device.memory import MOST_LOGITS
from train.device.precision import stream_in_half
from train.models.config import check_fit, dropout_of, longest_sequence
from train.models.encoder import make_encoder, rope_theta_of
from train.models.families import layers_of, max_positions, num_token_types
from train.models.packed import PackedEncoder
from train.optimizers.make import make_optimizer
from train.ranks import Ranks, use_half
from train.recipe.phases import Phase, Start, lay_out
from train.recipe.sources import EVAL_SPLIT, SPLIT, Source, name_phase, open_manifests
from train.run import Run
from train.settings import Settings, default_micro_batch

TOKENIZER_CONFIG = "tokenizer_config.json"


def prepare(recipe: Sequence[Settings], ranks: Ranks) -> tuple[Run, list[str]]:
    """The run at its first step, without a checkpoint, and messages for the user. Raises UserError.

    Every rank calls it alone: ranks must not communicate in it, or a fault of one would leave the others waiting.
    """
    recipe = [_with_rows(of_phase) for of_phase in recipe]
    settings = recipe[0]
    manifests = open_manifests(recipe, check=ranks.rank == 0)
    phases = lay_out(recipe, manifests, Start())
    half = use_half(settings.precision, ranks.device)
    encoder, messages = _make_encoder(recipe, phases)
    recipe = [_with_own_values(of_phase, encoder) for of_phase in recipe]
    attention.choose(settings.attention, ranks.device, half, encoder)
    messages += kernels.start(encoder, ranks.device)
    how = compiling.choose(settings, ranks.device, ranks.world_size, encoder)
    if half:
        stream_in_half(encoder)
    packed = PackedEncoder(encoder).to(ranks.device).train()
    packed.most_logits = MOST_LOGITS if ranks.device.type == "cuda" else None
    files = _tokenizer_files(phases[0].sources[0], encoder)
    betas = (settings.betas[0], settings.betas[1])
    layers = layers_of(encoder)
    optimizer = make_optimizer(encoder, settings.weight_decay, settings.optimizer, betas, settings.epsilon, layers)
    run = Run(recipe, manifests, phases, phases[0], ranks, encoder, packed, packed, optimizer, half, how, files)
    run.begin(Start())
    for phase in run.phases:
        try:
            run.cache = _check_memory(phase, run) or run.cache
        except UserError as error:
            name_phase(error, phase.number - 1, recipe)
            raise
    for source in run.sources:
        messages += not_cached(settings.cache, source.url)
        if not source.manifest.splits[EVAL_SPLIT].shards:
            messages.append(f"{source.url}: has no held-out split, so there will be no scores")
    return run, messages


def _make_encoder(recipe: Sequence[Settings], phases: Sequence[Phase]) -> tuple[PreTrainedModel, list[str]]:
    """The model of all phases. Raises UserError, with the number of the phase whose data it does not fit."""
    settings = recipe[0]
    dropouts = [of_phase.dropout for of_phase in recipe]
    if min(dropouts) < 0 <= max(dropouts):
        raise UserError("--dropout is set in some phases only; set it for the run, or in each phase")
    by_length = sorted(
        ((phase, source) for phase in phases for source in phase.sources),
        key=lambda item: longest_sequence(item[1].manifest),
        reverse=True,
    )
    encoder, messages = None, list[str]()
    for phase, source in by_length:
        try:
            if encoder is None:
                check_vocabulary(source.url, source.manifest)
                # The largest dropout: a model that is made without has no place for it.
                encoder, messages = make_encoder(
                    settings.model, source.manifest, source.url, max(dropouts), settings.seed, settings.ignore_pairs
                )
            check_fit(settings.model, encoder.config, source.manifest, settings.ignore_pairs)
            if phase.settings.rope_theta and not rope_theta_of(encoder.config):
                raise UserError(f"--rope-theta: --model {settings.model} has no such base; leave it out")
        except UserError as error:
            name_phase(error, phase.number - 1, recipe)
            raise
    assert encoder is not None
    encoder.config.architectures = [type(encoder).__name__]
    return encoder, messages


def _with_rows(settings: Settings) -> Settings:
    """The settings with a number of rows per micro-batch: see `micro_batch`, for where it matters."""
    return settings if settings.micro_batch > 0 else replace(settings, micro_batch=default_micro_batch(settings.common_batch))


def _with_own_values(settings: Settings, encoder: PreTrainedModel) -> Settings:
    """The settings with the model's own values where there are none."""
    config = encoder.config
    dropout = settings.dropout if settings.dropout >= 0 else dropout_of(config)
    return replace(settings, dropout=dropout, rope_theta=settings.rope_theta or rope_theta_of(config))


def _check_memory(phase: Phase, run: Run) -> Cache | None:
    """The cache, if there is one. Raises UserError when it or the memory of the machine is too small for the phase."""
    ranks, settings, config = run.ranks, phase.settings, run.encoder.config
    lanes = lanes_in_phase(phase.order, ranks.local, ranks.world_size, phase.begun_position)
    for number, source in enumerate(phase.sources):
        require_reader(source.url, source.manifest, SPLIT, lanes[number])
        if ranks.device.type == "cpu":  # on a GPU torch has errors of its own, which the loop reports
            of_eval = Shape.of(source.manifest, EVAL_SPLIT, settings.micro_batch, None)
            for shape, num_layers in ((phase.shape, config.num_hidden_layers), (of_eval, 1)):
                require_step(source.url, shape, config.vocab_size, config.hidden_size, num_layers, len(ranks.local))
    counts, sources = [len(own) for own in lanes.values()], [source.shards for source in phase.sources]
    return open_cache(settings.cache, settings.cache_bytes, sources, counts)


def _tokenizer_files(source: Source, encoder: PreTrainedModel) -> dict[str, bytes]:
    """The data set's tokenizer with the limit of the model (model_max_length)."""
    url, manifest = source.url, source.manifest
    files = {}
    for name, digest in manifest.tokenizer["files"].items():
        place = storage.join(url, manifest.tokenizer["folder"], name)
        files[name] = storage.read_small(place, MAX_BYTES)
        if sha256(files[name]).hexdigest() != digest:
            raise UserError(f"{place}: its sha256 is not the manifest's: it was changed or damaged; build the data set again")
    if TOKENIZER_CONFIG in files:
        files[TOKENIZER_CONFIG] = _for_model(files[TOKENIZER_CONFIG], encoder.config, url)
    return files


def _for_model(tokenizer_config: bytes, config: PreTrainedConfig, url: str) -> bytes:
    """A tokenizer_config.json with the model's limit, and without token types for a model that takes none."""
    fields: dict[str, Any] = {"model_max_length": max_positions(config)}
    if num_token_types(config) < 2:
        fields["model_input_names"] = ["input_ids", "attention_mask"]
    try:
        return json.dumps(dict(json.loads(tokenizer_config)) | fields, indent=1).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{url}: its {TOKENIZER_CONFIG} is not a JSON object; build the data set again") from error

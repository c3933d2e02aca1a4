"""A run before its first step: data set, order of rows, model and optimizer, made from the settings.

Settings -> manifest, order, masking -> model, attention -> optimizer -> Run
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from shards import storage
from shards.errors import UserError
from shards.manifest import Manifest, ShardInfo
from train.checkpoint import CONFIG, MODEL, OPTIMIZER
from train.data.batch import PackedBatch, pack_batch
from train.data.cache import Cache
from train.data.feeding import Packer
from train.data.layout import Layout, Shape
from train.data.memory import require_reader, require_step
from train.data.prefetch import Prefetcher, not_cached, open_cache
from train.data.reader import empty_rows
from train.data.row_groups import DecodedGroups
from train.data.shard_uses import lanes_in_phase, uses_in_phase
from train.data.sources import SourceGroups
from train.data.tokenizer import check_vocabulary
from train.device import attention, compiling, kernels
from train.device.compiling import How
from train.device.memory import MOST_LOGITS, keep_inputs_only
from train.device.precision import stream_in_half
from train.models.config import check_fit, dropout_of, longest_sequence
from train.models.encoder import change_dropout, change_rope_theta, make_encoder, rope_theta_of
from train.models.families import layers_of, max_positions, num_token_types, saved_tensors, window_of
from train.models.packed import PackedEncoder
from train.optimizers.make import make_optimizer, set_weight_decay, state_tensors
from train.ranks import Ranks, autocast, use_half
from train.recipe.phases import Phase, Start, lay_out
from train.recipe.records import describe
from train.recipe.sources import EVAL_SPLIT, SPLIT, Source, name_phase, open_manifests
from train.settings import Settings, default_micro_batch
from train.step import clear_gradients

TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass
class Run:
    """What the loop works with. A step calls `model`: the packed encoder, compiled and wrapped in DDP as the run needs."""

    recipe: Sequence[Settings]  # of each phase
    manifests: Mapping[str, Manifest]  # by the URL of the data set
    phases: Sequence[Phase]
    phase: Phase  # the current one
    ranks: Ranks
    encoder: PreTrainedModel
    packed: nn.Module
    model: nn.Module
    optimizer: torch.optim.Optimizer
    half: bool  # whether the forward pass runs in bf16
    how: How  # whether and how the model is compiled
    files: dict[str, bytes]  # the tokenizer's, for checkpoints
    start: Start = field(default_factory=Start)
    cache: Cache | None = None

    @property
    def settings(self) -> Settings:
        """The settings of the current phase. Those of the whole run are the same in all phases."""
        return self.phase.settings

    @property
    def sources(self) -> list[Source]:
        """The data sets of all phases, in order."""
        return list({source.name: source for phase in self.phases for source in phase.sources}.values())

    @property
    def shape(self) -> Shape:
        """The shape of the micro-batches of the current phase."""
        return replace(self.phase.shape, window=window_of(self.encoder))

    @property
    def layout(self) -> Layout:
        """The layout of batches that the model needs."""
        return attention.layout_of(self.encoder, is_compiled=self.how != "plain")

    @property
    def keeps_gradients(self) -> bool:
        """Whether the memory of gradients must stay from step to step."""
        return self.how == "graphs"

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self.phases[-1].end_step

    def lr(self, step: int) -> float:
        """The learning rate of a step, which is in the current phase."""
        schedule, first_step = self.phase.schedule(self.num_steps)
        return schedule.lr(step - first_step)

    def begin(self, start: Start) -> None:
        """Lays the phases out from where this start begins. Raises UserError."""
        if start.phase >= len(self.recipe):
            raise UserError(
                f"{self.settings.out}: is in phase {start.phase + 1}, and the recipe has {len(self.recipe)}; phases that are "
                "done or begun must stay in it"
            )
        self.start, self.phases = start, lay_out(self.recipe, self.manifests, start)
        self.enter(self.phases[start.phase])

    def enter(self, phase: Phase) -> None:
        """Makes a phase the current one."""
        self.phase = phase
        if phase.settings.dropout != dropout_of(self.encoder.config):
            change_dropout(self.encoder, phase.settings.dropout)
        if phase.settings.rope_theta != rope_theta_of(self.encoder.config):
            change_rope_theta(self.encoder, phase.settings.rope_theta)
        set_weight_decay(self.optimizer, phase.settings.weight_decay)

    def next_phase(self) -> Phase | None:
        """The phase after the current one."""
        return self.phases[self.phase.number] if self.phase.number < len(self.phases) else None

    def groups(self) -> SourceGroups:
        """Reads the row groups of the current phase."""
        phase, threads = self.phase, self.settings.reader_threads
        remote = [number for number, source in enumerate(phase.sources) if not storage.is_local(source.url)]
        prefetcher = None
        if self.cache is not None and remote:
            lanes = lanes_in_phase(phase.order, self.ranks.local, self.ranks.world_size, phase.begun_position)
            uses_at = uses_in_phase(phase.order, {number: lanes[number] for number in remote}, phase.end)
            prefetcher = Prefetcher(self.cache, [shards_of(phase.sources[number]) for number in remote], uses_at, threads)
        parts = [
            DecodedGroups(source.url, source.manifest, SPLIT, threads, prefetcher if number in remote else None)
            for number, source in enumerate(phase.sources)
        ]
        return SourceGroups(parts, phase.order.group_starts)

    def row_names(self, row_ids: npt.NDArray[np.int64], sources: npt.NDArray[np.int32]) -> list[int] | list[str]:
        """Rows of the current phase as the row log names them: numbers, or NAME:ROW if the run has several data sets."""
        numbers: list[int] = row_ids.tolist()
        if len(self.sources) == 1:
            return numbers
        names = [source.name for source in self.phase.sources]
        return [f"{names[source]}:{row}" for source, row in zip(sources.tolist(), numbers, strict=True)]

    def autocast(self) -> Any:
        """The context of a forward pass."""
        return autocast(self.ranks.device, self.half)

    def pad_id(self) -> int:
        """The id of [PAD]."""
        return int(self.phase.sources[0].manifest.tokenizer["special_ids"]["pad"])

    def packer(self) -> Packer:
        """Makes the batches of the current phase."""
        return Packer(self.shape, self.pad_id(), self.layout, self.ranks.device)

    def empty_batch(self) -> PackedBatch:
        """The batch of a rank without work: the rank takes part in the step and adds nothing to it."""
        return pack_batch(empty_rows(), self.shape, self.pad_id(), self.layout).to(self.ranks.device)

    def batches_of_all_shapes(self) -> Iterator[PackedBatch]:
        """Batches without a token, one of each shape that compiled code will see."""
        for num_slots in self.shape.rounded_slots() if self.layout == "rounded" else (0,):
            yield pack_batch(empty_rows(), self.shape, self.pad_id(), self.layout, num_slots=num_slots).to(self.ranks.device)

    def pass_once(self, model: nn.Module, batch: PackedBatch) -> None:
        """Forward and backward. The gradients are dropped."""
        with self.autocast():
            losses = model(batch)
        (losses.mlm_loss + losses.nsp_loss).backward()
        clear_gradients(self.encoder, self.keeps_gradients)

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """The tensors of a checkpoint: file -> name -> tensor."""
        return {MODEL: saved_tensors(self.encoder), OPTIMIZER: dict(state_tensors(self.encoder, self.optimizer))}

    def record(self) -> dict[str, Any]:
        """The part of a checkpoint's record that identifies the run. `resume` compares it."""
        return {
            **describe(self.phase),
            "tokenizer_fingerprint": self.phase.sources[0].manifest.tokenizer["fingerprint"],
            "model": _model_settings(self.encoder),
            "phases": [describe(phase) for phase in self.phases],
        }

    def checkpoint_files(self) -> dict[str, bytes]:
        """The files of a checkpoint beside the tensors: config.json as it is now, and the tokenizer."""
        return {CONFIG: self.encoder.config.to_json_string(use_diff=True).encode(), **self.files}


def _model_settings(encoder: PreTrainedModel) -> dict[str, Any]:
    left_out = ("transformers_version", "architectures", "dtype", "_name_or_path")
    settings = {name: value for name, value in encoder.config.to_dict().items() if name not in left_out}
    plain: dict[str, Any] = json.loads(json.dumps(settings))  # with the types that a checkpoint's record has after reading
    return plain


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
    """The settings with a number of rows per micro-batch: see `train.micro_batch`, for where it matters."""
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
    counts, sources = [len(own) for own in lanes.values()], [shards_of(source) for source in phase.sources]
    return open_cache(settings.cache, settings.cache_bytes, sources, counts)


def shards_of(source: Source) -> tuple[str, Sequence[ShardInfo]]:
    """A data set's URL, and its shards to train on."""
    return source.url, source.manifest.splits[SPLIT].shards


def _tokenizer_files(source: Source, encoder: PreTrainedModel) -> dict[str, bytes]:
    """The data set's tokenizer with the limit of the model (model_max_length)."""
    url, manifest = source.url, source.manifest
    files = {}
    for name, digest in manifest.tokenizer["files"].items():
        place = storage.join(url, manifest.tokenizer["folder"], name)
        files[name] = storage.read_bytes(place)
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


def join_ranks(run: Run) -> list[str]:
    """Settles attention, compiles the model, wraps it in DDP, and runs an empty micro-batch through it once.

    Returns messages for the user.

    DDP orders its buckets by the first backward pass. With an empty batch they are the same wherever a run starts, and so is
    the order in which gradients are summed.
    """
    messages = settle_attention(run)
    if run.how != "plain":
        messages += compile_on_all(run)
    if run.how == "plain" and run.settings.activation_checkpointing:
        keep_inputs_only(run.encoder)
    run.model = run.ranks.wrap(run.packed)
    run.pass_once(run.model, run.empty_batch())
    return messages


def warm_up(run: Run) -> list[str]:
    """Compiles for the shapes of a phase that begins, and runs an empty micro-batch. Returns messages for the user."""
    messages = []
    if run.how != "plain":
        started = time.perf_counter()
        fault = compiling.warm_up(run.batches_of_all_shapes(), lambda batch: run.pass_once(run.packed, batch), run.how)
        run.ranks.agreed(lambda: _require_none(fault))
        messages.append(f"compiled for its shapes in {time.perf_counter() - started:.0f} s")
    run.pass_once(run.model, run.empty_batch())
    return messages


def _require_none(fault: str | None) -> None:
    if fault is not None:
        raise UserError(f"torch.compile fails for a phase that begins ({fault}); resume with --compile off")


def settle_attention(run: Run) -> list[str]:
    """With `--attention auto`: the fastest of those that can be, on every rank that of rank 0. Returns messages.

    It is measured with the rows of the phase in which this start begins.
    """
    totals = [source.manifest.splits[SPLIT].totals() for source in run.phase.sources]
    tokens, sequences = (sum(total[name] for total in totals) for name in ("tokens", "sequences"))
    filled_share = tokens / max(1, sequences * run.shape.longest)
    if run.settings.attention != "auto" or not kernels.may_be_padded(run.encoder, filled_share):
        return []
    seconds = run.ranks.from_first(lambda: kernels.times(run.encoder, run.shape, run.ranks.device, run.settings.dropout))
    return [kernels.choose_fastest(run.encoder, seconds)]


def compile_on_all(run: Run) -> list[str]:
    """Compiles the model on every rank, or on none: with `auto`, one rank without a compiler leaves all with plain code."""
    started = time.perf_counter()
    clear_gradients(run.encoder, run.keeps_gradients)
    compiling.compile_model(run.packed, run.encoder, run.how)
    if run.settings.activation_checkpointing:
        keep_inputs_only(run.encoder)
    fault = compiling.warm_up(run.batches_of_all_shapes(), lambda batch: run.pass_once(run.packed, batch), run.how)
    fault = next((fault for fault in run.ranks.gather(fault) if fault is not None), None)
    if fault is None:
        shape = "layer by layer" if run.how == "layers" else "as a whole, with CUDA graphs"
        return [f"compiled {shape} in {time.perf_counter() - started:.0f} s"]
    if "on" in (run.settings.compile, run.settings.cuda_graphs):
        raise UserError(f"--compile on: torch.compile fails here ({fault}); use --compile auto or off")
    compiling.undo(run.packed)
    run.how = "plain"
    clear_gradients(run.encoder)
    return [f"not compiled, because torch.compile fails here ({fault})"]

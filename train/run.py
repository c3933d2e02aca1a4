"""A run before its first step: data set, order of rows, model and optimizer, made from the settings.

Settings -> manifest, order, masking -> model, attention -> optimizer -> Run
"""

import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, get_args

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from shards import storage
from shards.dataset import masking_of, open_data_set
from shards.errors import UserError
from shards.manifest import Manifest
from shards.masking import Masking
from shards.storage.redaction import redacted
from shards.tokenizer_check import MAX_BYTES
from train.checkpoint import CONFIG, MODEL, OPTIMIZER
from train.data.batch import PackedBatch, pack_batch
from train.data.cache import Cache
from train.data.feeding import Packer
from train.data.layout import Layout, Shape
from train.data.memory import require_reader, require_step
from train.data.order import ORDER_VERSION, WINDOW_ROWS, Order, RowGroups
from train.data.prefetch import Prefetcher, not_cached, open_cache
from train.data.reader import RankSlice, empty_rows
from train.data.row_groups import check_sizes
from train.data.shard_uses import lanes_of, uses_in_training
from train.data.tokenizer import check_vocabulary
from train.device import attention, compiling, kernels
from train.device.compiling import How
from train.device.memory import MOST_LOGITS, keep_inputs_only
from train.device.precision import stream_in_half
from train.models.config import dropout_of
from train.models.encoder import make_encoder
from train.models.families import layers_of, max_positions, num_token_types, saved_tensors, window_of
from train.models.packed import PackedEncoder
from train.optimizers.make import make_optimizer, state_tensors
from train.ranks import Ranks, autocast, use_half
from train.settings import MaskSource, Settings, default_micro_batch
from train.step import clear_gradients

SPLIT = "train"
TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass
class Run:
    """What the loop works with. A step calls `model`: the packed encoder, compiled and wrapped in DDP as the run needs."""

    settings: Settings
    ranks: Ranks
    manifest: Manifest
    order: Order
    masking: Masking | None  # the rule for masks drawn on reading; None: the stored ones
    shape: Shape
    encoder: PreTrainedModel
    packed: nn.Module
    model: nn.Module
    optimizer: torch.optim.Optimizer
    half: bool  # whether the forward pass runs in bf16
    how: How  # whether and how the model is compiled
    files: dict[str, bytes]  # the files of a checkpoint that never change: config.json and the tokenizer
    first_step: int = 0
    first_position: int = 0
    cache: Cache | None = None

    @property
    def layout(self) -> Layout:
        """The layout of batches that the model needs."""
        return attention.layout_of(self.encoder, is_compiled=self.how != "plain")

    @property
    def keeps_gradients(self) -> bool:
        """Whether the memory of gradients must stay from step to step."""
        return self.how == "graphs"

    @property
    def end(self) -> int:
        """The position at which the run ends."""
        steps_left = self.settings.steps - self.first_step
        if self.settings.steps:
            return self.first_position + steps_left * self.settings.global_batch
        return self.settings.epochs * self.order.groups.num_rows

    @property
    def num_steps(self) -> int:
        """Steps of the whole run. The last one may be short."""
        rows_left = self.end - self.first_position
        return self.first_step + -(-rows_left // self.settings.global_batch)

    def position(self, step: int) -> int:
        """The position at which a step begins."""
        return min(self.end, self.first_position + (step - self.first_step) * self.settings.global_batch)

    def rank_slice(self) -> RankSlice:
        """What this rank reads of the run."""
        return RankSlice(self.ranks.rank, self.ranks.world_size, self.first_step, self.first_position, self.end)

    def lanes(self) -> list[int]:
        """The lanes that the processes of this machine read."""
        return lanes_of(self.order, self.ranks.local, self.ranks.world_size, self.first_position)

    def prefetcher(self) -> Prefetcher | None:
        """Keeps the cache ahead of this machine's processes. None without a cache."""
        if self.cache is None:
            return None
        shards, threads = self.manifest.splits[SPLIT].shards, self.settings.reader_threads
        uses_at = uses_in_training(self.order, self.lanes(), self.end)
        return Prefetcher(self.cache, self.settings.data, shards, uses_at, threads)

    def autocast(self) -> Any:
        """The context of a forward pass."""
        return autocast(self.ranks.device, self.half)

    def pad_id(self) -> int:
        """The id of [PAD]."""
        return int(self.manifest.tokenizer["special_ids"]["pad"])

    def packer(self) -> Packer:
        """Makes the batches of the training split."""
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
            "data_fingerprint": self.manifest.data_fingerprint,
            "tokenizer_fingerprint": self.manifest.tokenizer["fingerprint"],
            "order": {
                "version": ORDER_VERSION,
                "lanes": self.order.lanes,
                "window_rows": WINDOW_ROWS,
                "row_groups": self.order.groups.fingerprint,
            },
            "mask_prob": self.masking.probability if self.masking else None,
            "model": _model_settings(self.encoder),
            "settings": {
                name: redacted(value) if isinstance(value, str) else list(value) if isinstance(value, tuple) else value
                for name, value in dataclasses.asdict(self.settings).items()
            },
        }


def _model_settings(encoder: PreTrainedModel) -> dict[str, Any]:
    left_out = ("transformers_version", "architectures", "dtype", "_name_or_path")
    settings = {name: value for name, value in encoder.config.to_dict().items() if name not in left_out}
    plain: dict[str, Any] = json.loads(json.dumps(settings))  # with the types that a checkpoint's record has after reading
    return plain


def prepare(settings: Settings, ranks: Ranks) -> tuple[Run, list[str]]:
    """The run at its first step, without a checkpoint, and messages for the user. Raises UserError.

    Every rank calls it alone: ranks must not communicate in it, or a fault of one would leave the others waiting.
    """
    manifest = open_data_set(settings.data)
    if SPLIT not in manifest.splits or "eval" not in manifest.splits:
        raise UserError(f"{settings.data}: its manifest has no splits train and eval; build it again")
    for split in manifest.splits if ranks.rank == 0 else ():
        check_sizes(settings.data, manifest, split)
    is_dynamic, rule = choose_masking(settings.masking, settings.data, manifest)
    settings = dataclasses.replace(settings, masking="dynamic" if is_dynamic else "stored")
    if settings.micro_batch <= 0:
        settings = dataclasses.replace(settings, micro_batch=default_micro_batch(settings.global_batch))
    masking = rule if is_dynamic else None
    order = Order(RowGroups.of(manifest.splits[SPLIT]), settings.seed, settings.global_batch, settings.micro_batch)
    half = use_half(settings.precision, ranks.device)
    check_vocabulary(settings.data, manifest)
    encoder, messages = make_encoder(
        settings.model, manifest, settings.data, settings.dropout, settings.seed, settings.ignore_pairs
    )
    settings = dataclasses.replace(settings, dropout=dropout_of(encoder.config))
    attention.choose(settings.attention, ranks.device, half, encoder)
    messages += kernels.start(encoder, ranks.device)
    how = compiling.choose(settings, ranks.device, ranks.world_size, encoder)
    if half:
        stream_in_half(encoder)
    packed = PackedEncoder(encoder).to(ranks.device).train()
    packed.most_logits = MOST_LOGITS if ranks.device.type == "cuda" else None
    shape = Shape.of(manifest, SPLIT, settings.micro_batch, masking, settings.ignore_pairs)
    shape = dataclasses.replace(shape, window=window_of(encoder))
    _require_memory(settings, manifest, ranks, shape, encoder)
    files = _fixed_files(settings.data, manifest, encoder)
    betas = (settings.betas[0], settings.betas[1])
    layers = layers_of(encoder)
    optimizer = make_optimizer(encoder, settings.weight_decay, settings.optimizer, betas, settings.epsilon, layers)
    run = Run(settings, ranks, manifest, order, masking, shape, encoder, packed, packed, optimizer, half, how, files)
    shards = manifest.splits[SPLIT].shards
    require_reader(settings.data, manifest, SPLIT, run.lanes())
    run.cache = open_cache(settings.cache, settings.cache_bytes, settings.data, shards, len(run.lanes()))
    messages += not_cached(settings.cache, settings.data)
    if not manifest.splits["eval"].shards:
        messages.append(f"{settings.data}: has no held-out split, so there will be no scores")
    return run, messages


def _require_memory(settings: Settings, manifest: Manifest, ranks: Ranks, shape: Shape, encoder: PreTrainedModel) -> None:
    """Raises UserError when a micro-batch does not fit. On a GPU torch has errors of its own, which the loop reports."""
    if ranks.device.type != "cpu":
        return
    config, num_processes = encoder.config, len(ranks.local)
    for split, num_layers in ((SPLIT, config.num_hidden_layers), ("eval", 1)):
        of_split = shape if split == SPLIT else Shape.of(manifest, split, settings.micro_batch, None)
        require_step(settings.data, of_split, config.vocab_size, config.hidden_size, num_layers, num_processes)


def choose_masking(masking: MaskSource, url: str, manifest: Manifest) -> tuple[bool, Masking]:
    """Whether `--masking auto|stored|dynamic` means masks drawn on reading, and the rule for them. Raises UserError."""
    is_stored = manifest.settings["masking"] == "static"
    if masking == "stored" and not is_stored:
        raise UserError(f"--masking stored: {url} was built with --masking dynamic and has no masks; use dynamic")
    if masking not in get_args(MaskSource):  # of ShardStream, whose caller need not use mypy
        raise UserError(f"--masking is {masking!r}, must be one of {', '.join(get_args(MaskSource))}")
    return masking == "dynamic" or not is_stored, masking_of(url, manifest)


def _fixed_files(url: str, manifest: Manifest, encoder: PreTrainedModel) -> dict[str, bytes]:
    """config.json, and the data set's tokenizer with the limit of the model (model_max_length)."""
    encoder.config.architectures = [type(encoder).__name__]
    files = {CONFIG: encoder.config.to_json_string(use_diff=True).encode()}
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


def settle_attention(run: Run) -> list[str]:
    """With `--attention auto`: the fastest of those that can be, on every rank that of rank 0. Returns messages."""
    totals = run.manifest.splits[SPLIT].totals()
    filled_share = totals["tokens"] / max(1, totals["sequences"] * run.shape.longest)
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

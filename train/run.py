"""A run: its phases, model and optimizer, and what follows from the current phase.

train/start makes it and loads a checkpoint into it -> train/loop takes its steps, and enters phase after phase
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel

from shards import storage
from shards.errors import UserError
from shards.manifest import Manifest
from train.checkpoint import CONFIG, MODEL, OPTIMIZER
from train.data.batch import PackedBatch, pack_batch
from train.data.cache import Cache
from train.data.feeding import Packer
from train.data.layout import Layout, Shape
from train.data.prefetch import Prefetcher
from train.data.reader import empty_rows
from train.data.row_groups import DecodedGroups
from train.data.shard_uses import lanes_in_phase, uses_in_phase
from train.data.sources import SourceGroups
from train.device import attention
from train.device.compiling import How
from train.models.config import dropout_of
from train.models.encoder import change_dropout, change_rope_theta, rope_theta_of
from train.models.families import saved_tensors, window_of
from train.optimizers.make import set_weight_decay, state_tensors
from train.ranks import Ranks, autocast
from train.recipe.phases import Phase, Start, lay_out
from train.recipe.records import describe
from train.recipe.sources import SPLIT, Source
from train.settings import Settings
from train.step import clear_gradients


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
            prefetcher = Prefetcher(self.cache, [phase.sources[number].shards for number in remote], uses_at, threads)
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

"""torch.compile: the layers one by one, or a small model as a whole, replayed as CUDA graphs.

    flags, device, size of the model -> choose -> compile_model: in place -> warm_up: compiles now, or goes back to plain code

In place: names of parameters, checkpoints and DDP know nothing of it. All layers of a model share what is compiled for one.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from shards.errors import UserError
from train.data.batch import PackedBatch
from train.models.families import layers_of
from train.settings import Settings

How = Literal["plain", "layers", "graphs"]

# Weights in the layers of a model whose kernels are so short that launching them takes longer: `small` of BERT's sizes has
# 12.6 million and reached 10 to 15 % of an H200's peak; `medium` has 25, `base` 85 million.
_LAUNCH_BOUND = 20_000_000
# Of a phase: layers of several kinds, times four sizes of padded attention, times training and evaluation. torch runs whatever
# is above its limits uncompiled.
_MOST_GRAPHS = 64
# CUDA graphs: the first pass allocates, the second records.
_PASSES = {"layers": 1, "graphs": 3}


def choose(settings: Settings, device: torch.device, world_size: int, encoder: PreTrainedModel) -> How:
    """How `--compile` and `--cuda-graphs` mean to run a model. Raises UserError for what cannot be together."""
    graphs = settings.cuda_graphs
    if graphs == "on":
        _check_graphs(settings, device, world_size)
        return "graphs"
    if settings.compile == "off" or (settings.compile == "auto" and device.type != "cuda"):
        return "plain"
    num_weights = sum(parameter.numel() for layer in layers_of(encoder) for parameter in layer.parameters())
    may_graph = graphs == "auto" and device.type == "cuda" and world_size == 1 and not settings.activation_checkpointing
    return "graphs" if may_graph and num_weights < _LAUNCH_BOUND else "layers"


def _check_graphs(settings: Settings, device: torch.device, world_size: int) -> None:
    if settings.compile == "off" or settings.activation_checkpointing:
        other = "--compile off" if settings.compile == "off" else "--activation-checkpointing"
        raise UserError(f"--cuda-graphs on does not go together with {other}; leave out one of them")
    if device.type != "cuda":
        raise UserError(f"--cuda-graphs on needs a GPU, the device is {device}; use auto or off")
    if world_size > 1:
        raise UserError(f"--cuda-graphs on is for a run of one process, this one has {world_size}; use auto or off")


def compile_model(
    packed: nn.Module, encoder: PreTrainedModel, how: How, num_phases: int = 1, backend: str = "inductor"
) -> None:
    """Compiles at the next pass, and again in each phase."""
    torch._dynamo.config.recompile_limit = _MOST_GRAPHS * num_phases
    torch._dynamo.config.accumulated_recompile_limit = max(256, _MOST_GRAPHS * num_phases)  # 256 is torch's own
    # DDP's own splitting of graphs is for whole models: layers that are compiled one by one overlap with its messages anyway.
    torch._dynamo.config.optimize_ddp = False
    if how == "graphs":
        packed.compile(mode="reduce-overhead", dynamic=False)
    elif how == "layers":
        for layer in layers_of(encoder):
            layer.compile(backend=backend, dynamic=False)


def undo(packed: nn.Module) -> None:
    """Back to plain code."""
    for module in packed.modules():
        module._compiled_call_impl = None
    torch._dynamo.reset()


def warm_up(batches: Iterable[PackedBatch], run_once: Callable[[PackedBatch], Any], how: How) -> str | None:
    """Forward and backward with a batch of each shape. Returns what went wrong, in a line, or None."""
    try:
        for batch in batches:
            for _ in range(_PASSES.get(how, 0)):
                run_once(batch)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a compiler that is missing or does not fit fails in any way
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    return None

"""The optimizer of a run: parameters in groups, the algorithm over them, and its state for checkpoints."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from train.optimizers import moments, muon
from train.optimizers.lamb import Lamb
from train.optimizers.muon import MuonWithAdamW
from train.optimizers.stable_adamw import StableAdamW
from train.settings import BETAS, EPSILON, OptimizerName


def make_optimizer(
    model: nn.Module,
    weight_decay: float,
    name: OptimizerName = "adamw",
    betas: tuple[float, float] = BETAS,
    epsilon: float = EPSILON,
    layers: Iterable[nn.Module] = (),
) -> torch.optim.Optimizer:
    """The optimizer over the model's parameters. Biases and the weights of norms, which have one dimension, do not decay.

    `layers` hold the matrices that Muon changes. Raises UserError where torch lacks it.
    """
    in_layers = {p for layer in layers for p in layer.parameters() if p.ndim == 2} if name == "muon" else set()
    others = [p for p in model.parameters() if p not in in_layers]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": weight_decay, "decays": True},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0, "decays": False},
    ]
    if name == "lamb":
        return Lamb(groups, betas, epsilon)
    if name == "stable-adamw":
        return StableAdamW(groups, betas, epsilon)
    if name == "muon":
        matrices = {"params": [p for p in model.parameters() if p in in_layers], "weight_decay": weight_decay, "decays": True}
        return MuonWithAdamW(matrices, groups, betas, epsilon)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=epsilon, fused=True)


def set_weight_decay(optimizer: torch.optim.Optimizer, weight_decay: float) -> None:
    """Changes the weight decay of the parameters that decay."""
    for group in optimizer.param_groups:
        group["weight_decay"] = weight_decay if group["decays"] else 0.0


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the optimizer's state per parameter. State that does not exist before the first step is created."""
    for_muon = set(optimizer.param_groups[0]["params"]) if isinstance(optimizer, MuonWithAdamW) else set()
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        if not state:
            state.update(muon.new_state(parameter) if parameter in for_muon else moments.new_state(parameter))
        for key, tensor in state.items():
            yield f"{name}.{key}", tensor

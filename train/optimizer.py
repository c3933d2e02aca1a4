"""AdamW."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

# As in BERT's own code.
BETAS = (0.9, 0.999)
EPSILON = 1e-6


def make_optimizer(model: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the model's parameters. Biases and the weights of norms, which have one dimension, do not decay."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPSILON, fused=True)


def state_tensors(model: nn.Module, optimizer: torch.optim.AdamW) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the optimizer's state per parameter. State that does not exist before the first step is created."""
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        for key in ("step", "exp_avg", "exp_avg_sq"):
            yield f"{name}.{key}", state[key]

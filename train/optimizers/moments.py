"""The running means of gradients and of their squares, for optimizers that torch does not have.

Shapes: n parameters. Coefficients differ by parameter, because one without a gradient takes no step.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

STATE = ("step", "exp_avg", "exp_avg_sq")


class Moments:
    """The parameters of a group that have a gradient, with their state, as lists of n tensors."""

    def __init__(self, optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> None:
        """Creates state that does not exist yet. In a step to be skipped, gradients become 0: NaN times 0 would be NaN."""
        self.params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        self.grads = [p.grad for p in self.params if p.grad is not None]
        states = [optimizer.state[p] for p in self.params]
        for state, parameter in zip(states, self.params, strict=True):
            if not state:
                state.update(new_state(parameter))
        self.steps, self.means, self.squares = ([state[name] for state in states] for name in STATE)
        skipped = getattr(optimizer, "found_inf", None)
        if skipped is None:
            skipped = torch.zeros((), device=self.params[0].device) if self.params else torch.zeros(())
        # 1 where the step is taken, else 0: whatever is multiplied by it leaves everything as it is.
        self.taken: Tensor = 1.0 - skipped
        for grad in self.grads:
            grad.masked_fill_(skipped > 0, 0.0)

    def count(self) -> Tensor:
        """Counts the step. Returns the number of steps that each parameter has taken, at least 1: [n]."""
        torch._foreach_add_(self.steps, self.taken)
        return torch.stack(self.steps).clamp(min=1.0)

    def average(self, mean_weights: Tensor, square_weights: Tensor, squares: list[Tensor]) -> None:
        """Moves the means to the gradients and to their squares by the weights, [n] each."""
        torch._foreach_lerp_(self.means, self.grads, (mean_weights * self.taken).unbind())
        torch._foreach_lerp_(self.squares, squares, (square_weights * self.taken).unbind())


class MomentsOptimizer(torch.optim.Optimizer):
    """An optimizer whose steps follow from the moments of each group."""

    def __init__(self, groups: Sequence[dict[str, Any]], betas: tuple[float, float], epsilon: float) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})
        self.betas, self.epsilon = betas, epsilon

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # torch's own may return a loss
        """Takes the step, unless `found_inf` is 1."""
        for group in self.param_groups:
            moments = Moments(self, group)
            if moments.params:
                self.change(moments, group["lr"], group["weight_decay"])

    @abstractmethod
    def change(self, moments: Moments, lr: float | Tensor, weight_decay: float) -> None:
        """Takes the step of a group."""


def new_state(parameter: Tensor) -> dict[str, Tensor]:
    """The state of a parameter before its first step."""
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
    }


def one_minus_power(beta: float, exponents: Tensor) -> Tensor:
    """1 - beta ** exponents, exact also where that is close to 0."""
    return -torch.expm1(exponents * math.log(beta))

"""LAMB (You et al. 2020, arXiv:1904.00962, algorithm 2): AdamW's direction, as long as the tensor that it changes.

As in the published code, tensors without weight decay, which are biases and norms, keep AdamW's length.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from train.optimizers.moments import Moments, one_minus_power


class Lamb(torch.optim.Optimizer):
    """LAMB with bias correction, without a bound on the length of a tensor."""

    def __init__(self, groups: Sequence[dict[str, Any]], betas: tuple[float, float], epsilon: float) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})
        self.betas, self.epsilon = betas, epsilon

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # torch's own may return a loss
        """Takes the step, unless `found_inf` is 1."""
        for group in self.param_groups:
            moments = Moments(self, group)
            if moments.params:
                _step(moments, group["lr"], group["weight_decay"], self.betas, self.epsilon)


def _step(moments: Moments, lr: float | Tensor, weight_decay: float, betas: tuple[float, float], epsilon: float) -> None:
    (mean_beta, square_beta), params = betas, moments.params
    counts = moments.count()
    weights = torch.ones_like(counts)
    squares = torch._foreach_mul(moments.grads, moments.grads)
    moments.average(weights * (1.0 - mean_beta), weights * (1.0 - square_beta), list(squares))
    lengths = torch._foreach_sqrt(moments.squares)
    torch._foreach_div_(lengths, one_minus_power(square_beta, counts).sqrt().unbind())
    torch._foreach_add_(lengths, epsilon)
    changes = torch._foreach_div(moments.means, lengths)
    torch._foreach_div_(changes, one_minus_power(mean_beta, counts).unbind())
    ratios = weights
    if weight_decay:
        torch._foreach_add_(changes, params, alpha=weight_decay)
        param_norms, change_norms = (torch.stack(torch._foreach_norm(tensors)) for tensors in (params, list(changes)))
        ratios = torch.where((param_norms > 0) & (change_norms > 0), param_norms / change_norms, weights)
    torch._foreach_mul_(changes, (-lr * moments.taken * ratios).unbind())
    torch._foreach_add_(params, changes)

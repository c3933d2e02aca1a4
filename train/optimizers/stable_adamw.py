"""StableAdamW (Wortsman et al. 2023, arXiv:2304.13013, algorithm 2): AdamW with AdaFactor's update clipping.

Where the gradients of a tensor are larger than their running mean square says, its learning rate is divided by how much.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from train.optimizers.moments import Moments, one_minus_power


class StableAdamW(torch.optim.Optimizer):
    """StableAdamW. Its weight decay is multiplied by the tensor's learning rate, as in the paper."""

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
    squares = list(torch._foreach_mul(moments.grads, moments.grads))
    # The paper's corrected betas: a mean over t steps is that of t gradients, not of t gradients and a 0.
    mean_weights, square_weights = ((1.0 - beta) / one_minus_power(beta, counts) for beta in (mean_beta, square_beta))
    moments.average(mean_weights, square_weights, squares)
    torch._foreach_div_(squares, torch._foreach_clamp_min(moments.squares, epsilon**2))
    sizes = torch.tensor([p.numel() for p in params], device=counts.device)
    excesses = (torch.stack(torch._foreach_norm(squares, 1)) / sizes).sqrt()  # the paper's RMS
    lrs = lr * moments.taken / excesses.clamp(min=1.0)
    if weight_decay:
        torch._foreach_mul_(params, (1.0 - lrs * weight_decay).unbind())
    lengths = torch._foreach_sqrt(moments.squares)
    torch._foreach_add_(lengths, epsilon)
    changes = torch._foreach_div(moments.means, lengths)
    torch._foreach_mul_(changes, (-lrs).unbind())
    torch._foreach_add_(params, changes)

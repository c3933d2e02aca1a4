"""StableAdamW (Wortsman et al. 2023, arXiv:2304.13013, algorithm 2): AdamW with AdaFactor's update clipping.

Where the gradients of a tensor are larger than their running mean square says, its learning rate is divided by how much.
"""

import torch
from torch import Tensor

from train.optimizers.moments import Moments, MomentsOptimizer, one_minus_power


class StableAdamW(MomentsOptimizer):
    """StableAdamW. Its weight decay is multiplied by the tensor's learning rate, as in the paper."""

    def change(self, moments: Moments, lr: float | Tensor, weight_decay: float) -> None:
        """Takes the step of a group."""
        (mean_beta, square_beta), params = self.betas, moments.params
        counts = moments.count()
        squares = list(torch._foreach_mul(moments.grads, moments.grads))
        # The paper's corrected betas: a mean over t steps is that of t gradients, not of t gradients and a 0.
        mean_weights, square_weights = ((1.0 - beta) / one_minus_power(beta, counts) for beta in (mean_beta, square_beta))
        moments.average(mean_weights, square_weights, squares)
        torch._foreach_div_(squares, torch._foreach_clamp_min(moments.squares, self.epsilon**2))
        sizes = torch.tensor([p.numel() for p in params], device=counts.device)
        excesses = (torch.stack(torch._foreach_norm(squares, 1)) / sizes).sqrt()  # the paper's RMS
        lrs = lr * moments.taken / excesses.clamp(min=1.0)
        if weight_decay:
            torch._foreach_mul_(params, (1.0 - lrs * weight_decay).unbind())
        lengths = torch._foreach_sqrt(moments.squares)
        torch._foreach_add_(lengths, self.epsilon)
        changes = torch._foreach_div(moments.means, lengths)
        torch._foreach_mul_(changes, (-lrs).unbind())
        torch._foreach_add_(params, changes)

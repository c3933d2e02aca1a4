"""LAMB (You et al. 2020, arXiv:1904.00962, algorithm 2): AdamW's direction, as long as the tensor that it changes.

As in the published code, tensors without weight decay, which are biases and norms, keep AdamW's length.
"""

import torch
from torch import Tensor

from train.optimizers.moments import Moments, MomentsOptimizer, one_minus_power


class Lamb(MomentsOptimizer):
    """LAMB with bias correction, without a bound on the length of a tensor."""

    def change(self, moments: Moments, lr: float | Tensor, weight_decay: float) -> None:
        """Takes the step of a group."""
        (mean_beta, square_beta), params = self.betas, moments.params
        counts = moments.count()
        weights = torch.ones_like(counts)
        squares = torch._foreach_mul(moments.grads, moments.grads)
        moments.average(weights * (1.0 - mean_beta), weights * (1.0 - square_beta), list(squares))
        lengths = torch._foreach_sqrt(moments.squares)
        torch._foreach_div_(lengths, one_minus_power(square_beta, counts).sqrt().unbind())
        torch._foreach_add_(lengths, self.epsilon)
        changes = torch._foreach_div(moments.means, lengths)
        torch._foreach_div_(changes, one_minus_power(mean_beta, counts).unbind())
        ratios = weights
        if weight_decay:
            torch._foreach_add_(changes, params, alpha=weight_decay)
            param_norms, change_norms = (torch.stack(torch._foreach_norm(tensors)) for tensors in (params, list(changes)))
            ratios = torch.where((param_norms > 0) & (change_norms > 0), param_norms / change_norms, weights)
        torch._foreach_mul_(changes, (-lr * moments.taken * ratios).unbind())
        torch._foreach_add_(params, changes)

"""Muon (Jordan et al. 2024) for the matrices of the layers, AdamW for embeddings, heads, biases and norms.

Both are torch's own. Muon's steps are scaled to the size of AdamW's (Liu et al. 2025, arXiv:2502.16982, equation 4), so that
both parts share a learning rate and a weight decay.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from shards.errors import UserError
from train.device import torch_versions


class MuonWithAdamW(torch.optim.Optimizer):
    """The two optimizers as one. They share its groups and its state."""

    def __init__(
        self,
        matrices: dict[str, Any],
        others: Sequence[dict[str, Any]],
        betas: tuple[float, float],
        epsilon: float,
    ) -> None:
        """`matrices`: the group of parameters for Muon. Raises UserError where torch has no Muon."""
        make_muon: Any = torch_versions.muon()
        if make_muon is None:
            raise UserError("--optimizer muon: this torch has no Muon; install a newer one, or use another optimizer")
        super().__init__([matrices, *others], {"lr": 0.0})
        # Optimizers keep the dicts that they are given, so a learning rate set in a group of one is set in the other.
        self._muon = make_muon(self.param_groups[:1], lr=0.0, adjust_lr_fn="match_rms_adamw")
        self._adamw: Any = torch.optim.AdamW(self.param_groups[1:], lr=0.0, betas=betas, eps=epsilon, fused=True)
        self._muon.state = self._adamw.state = self.state
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # torch's own may return a loss
        """Takes the step, unless `found_inf` is 1."""
        self._adamw.found_inf = self.found_inf
        self._adamw.step()
        matrices = [p for p in self.param_groups[0]["params"] if p.grad is not None]
        if self.found_inf is None:
            self._muon.step()
            return
        for matrix in matrices:
            if not self.state[matrix]:
                self.state[matrix].update(new_state(matrix))
        # torch's Muon cannot skip. So it takes the step, and the tensors get their values back where it was to be skipped.
        tensors = [*matrices, *(self.state[matrix]["momentum_buffer"] for matrix in matrices)]
        before = [tensor.clone() for tensor in tensors]
        self._muon.step()
        for tensor, value in zip(tensors, before, strict=True):
            torch.where(self.found_inf > 0, value, tensor, out=tensor)


def new_state(parameter: Tensor) -> dict[str, Tensor]:
    """The state of a matrix before its first step."""
    return {"momentum_buffer": torch.zeros_like(parameter, memory_format=torch.preserve_format)}

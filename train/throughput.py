"""How fast a run is: tokens per second, time waiting for data, and the used share of the device's peak (MFU)."""

import math
import re
import time
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from train.models.families import attention_features, family_of, layers_of, windows_of
from train.run import Run
from train.step import Counts

_BF16_PEAKS = {  # dense bf16 FLOP/s of tensor cores, from the makers' data sheets
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10G": 70e12,
    "L4": 121e12,
}


def peak_flops(device: torch.device, half: bool) -> float | None:
    """The device's peak in FLOP/s in bf16; None where it is unknown."""
    if device.type != "cuda" or not half:
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for model, peak in _BF16_PEAKS.items() if re.search(rf"\b{model}\b", name)), None)


def step_flops(encoder: PreTrainedModel, counts: Counts) -> float:
    """Floating-point operations of forward and backward in a step.

    6 per weight and token, and 12 per layer, feature and pair of tokens that attend to each other (Chowdhery et al. 2022,
    arXiv:2204.02311, appendix B). The heads count only where something is predicted.
    """
    per_token, per_masked, per_pair = _weights(encoder)
    weights = per_token * counts.tokens + per_masked * counts.masked + per_pair * counts.pairs
    windows = windows_of(encoder)
    compared = sum(counts.nearby if window else counts.attended for window in windows)
    return 6.0 * weights + 12.0 * attention_features(encoder.config) * compared


def _weights(encoder: PreTrainedModel) -> tuple[float, int, int]:
    """The weights of matrix products for each token, each masked token and each pair."""
    family = family_of(encoder.config)
    layers = layers_of(encoder)
    repeats = encoder.config.num_hidden_layers / len(layers)  # above 1 where layers share their weights
    in_layers = {id(module) for layer in layers for module in layer.modules()}
    per_token, per_masked, per_pair = 0.0, 0, 0
    for name, module in encoder.named_modules():
        if not isinstance(module, nn.Linear) or name.startswith(family.unused_parts):
            continue
        size = module.weight.numel()
        if name.startswith(family.pair_parts):
            per_pair += size
        elif name.startswith(f"{encoder.base_model_prefix}."):
            per_token += size * (repeats if id(module) in in_layers else 1)
        else:
            per_masked += size
    return per_token, per_masked, per_pair


class Interval:
    """The steps since the last line of metrics, and their time without scores and checkpoints."""

    def __init__(self) -> None:
        self.steps = self.rows = self.tokens = self.masked = self.pairs = self.attended = self.nearby = 0
        self.waited_s = self.seconds = 0.0  # waiting for rows, and in total
        self._since = time.perf_counter()

    def add(self, counts: Counts, rows: int) -> None:
        """Adds a step, of so many rows."""
        self.steps += 1
        self.rows += rows
        self.tokens += counts.tokens
        self.masked += counts.masked
        self.pairs += counts.pairs
        self.attended += counts.attended
        self.nearby += counts.nearby

    def counts(self) -> Counts:
        """The counts of all its steps."""
        return Counts(self.tokens, self.masked, self.pairs, self.attended, self.nearby)

    def pause(self) -> None:
        """Stops the clock."""
        self.seconds += time.perf_counter() - self._since

    def resume(self) -> None:
        """Starts the clock again."""
        self._since = time.perf_counter()


def train_line(
    run: Run, interval: Interval, loss_sums: Sequence[float], num_skipped: int, norm: float, lr: float
) -> dict[str, float | int | None]:
    """A line of kind `train`. `loss_sums`: [MLM, NSP] losses of the interval's steps, without the skipped ones."""
    num_taken = interval.steps - num_skipped
    mlm_loss, nsp_loss = (loss_sum / num_taken if num_taken else math.nan for loss_sum in loss_sums)
    peak = peak_flops(run.ranks.device, run.half)
    flops = step_flops(run.encoder, interval.counts())
    per_second = 1.0 / max(1e-9, interval.seconds)
    return {
        "loss": mlm_loss + nsp_loss,
        "mlm_loss": mlm_loss,
        "nsp_loss": nsp_loss,
        "lr": lr,
        "grad_norm": norm,
        "tokens_per_s": interval.tokens * per_second,
        "padding_share": 1.0 - interval.tokens / (interval.rows * run.shape.tokens),
        "data_wait_share": interval.waited_s * per_second,
        "mfu": flops * per_second / (peak * run.ranks.world_size) if peak else None,
        "skipped": num_skipped,
    }

"""How a step's time on the device is spent: kernels by kind, from torch's profiler.

    torch.profiler -> (name, microseconds) of each kernel -> kind by its name -> microseconds by kind

A fused kernel counts as the most telling operation in its name. Kernels have other names in each version of torch and on each
card: what no pattern knows is "other", and `--kernels` of benchmarks.gpu lists its largest.
"""

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

# The first pattern that is in a name decides. Attention kernels have the words of matrix products in their names, and fused
# kernels of Inductor list all their operations, so the order matters.
_KINDS = (
    ("attention", r"flash|fmha|sdpa|mem_eff|efficient_attention|scaled_dot_product"),
    ("optimizer", r"multi_tensor|adam|foreach|lpnorm|muon"),
    ("matmul", r"triton_tem|gemm|gemv|nvjet|cutlass|xmma|cublas|splitk|::addmm$|::mm$|::bmm$|::linear$|::matmul$"),
    ("GELU", r"gelu"),
    ("loss", r"softmax|nll_loss|cross_entropy"),
    (
        "norm, dropout, residual",
        r"layer_norm|layernorm|rms_?norm|dropout|masked_scale|bernoulli|functor_add|functoron_self_add|::add_?$",
    ),
    ("embedding, gather", r"embedding|index|gather|scatter|radix|sort|unique"),
    ("copy, cast, fill", r"memcpy|memset|copy|fill|cat|transpose|clone|::to$|zero_?$|pin_memory"),
)
KINDS = (*(kind for kind, _ in _KINDS), "other")
_PATTERNS = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _KINDS)
_ON_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}  # categories of the trace; annotations of the host are others

Times = list[tuple[str, float]]  # (name, microseconds) of each kernel


def kind_of(name: str) -> str:
    """The kind of a kernel."""
    return next((kind for kind, pattern in _PATTERNS if pattern.search(name)), "other")


def by_kind(times: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Microseconds by kind, in the order of KINDS; kinds without a kernel are left out."""
    sums: dict[str, float] = defaultdict(float)
    for name, microseconds in times:
        sums[kind_of(name)] += microseconds
    return {kind: sums[kind] for kind in KINDS if kind in sums}


def largest(times: Iterable[tuple[str, float]], kind: str, count: int) -> list[tuple[str, float]]:
    """The kernels of a kind by the sum of their time, the largest first."""
    sums: dict[str, float] = defaultdict(float)
    for name, microseconds in times:
        if kind_of(name) == kind:
            sums[name] += microseconds
    return sorted(sums.items(), key=lambda item: -item[1])[:count]


class KernelProfile:
    """Records the kernels between `start` and `stop`. On a CPU, the operations of torch."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._profile = profile(activities=[ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU])

    def start(self) -> None:
        """Begins to record. The device should be idle."""
        self._profile.start()

    def stop(self) -> Times:
        """Ends it. The device should be idle again."""
        self._profile.stop()
        if self._device.type != "cuda":
            return [(event.key, event.self_cpu_time_total) for event in self._profile.key_averages()]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            self._profile.export_chrome_trace(str(path))
            return list(kernels_of(json.loads(path.read_text(encoding="utf8", errors="replace"))))


def kernels_of(trace: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(name, microseconds) of what ran on the device, from a trace in Chrome's format."""
    for event in trace["traceEvents"]:
        if event.get("ph") == "X" and event.get("cat") in _ON_DEVICE:
            yield event["name"], float(event["dur"])

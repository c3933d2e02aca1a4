"""The trainer's loop on each device: no host waits, no compilation after the first steps, buffers that are used again."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch

from gpu.on_device import GPU, Watch, distance, no_waits, settings_of, train, without_attention_dropout
from train.checkpoint import Snapshot, _has_memory


def test_the_host_waits_for_the_device_in_no_step(device: torch.device, data: str) -> None:
    """Steps 3 to 8, between the start and the line of metrics at the end: packing, copies, backward, clipping, update."""
    guard = no_waits(device)

    def after(num_done: int) -> None:
        if num_done == 2:
            guard.__enter__()
        elif num_done == 8:
            guard.__exit__(None, None, None)

    watch = Watch(after)
    try:
        train(settings_of(data, steps=10), device, watch)
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert watch.lines[-1]["loss"] > 0 and watch.lines[-1]["skipped"] == 0


def test_the_same_run_twice_is_the_same(device: torch.device, data: str) -> None:
    """Dropout too, which is seeded per micro-batch. On a GPU, some sums of gradients have no fixed order."""
    one, two = (train(settings_of(data, steps=2, precision="fp32"), device, Watch()) for _ in range(2))
    assert distance(one, two) <= (0.0 if device.type == "cpu" else 0.005)


@pytest.mark.parametrize("has_memory", [True, False])
def test_a_checkpoint_holds_the_tensors_of_its_moment_without_a_wait(
    device: torch.device, has_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that follow change the tensors while a thread moves the copies. Without memory for them, the host waits."""
    monkeypatch.setattr("train.checkpoint._has_memory", lambda tensors, device: has_memory)
    tensor = torch.arange(1 << 20, device=device, dtype=torch.float32).view(1024, 1024).T
    expected = tensor.cpu().clone()
    with no_waits(device) if has_memory else nullcontext():
        snapshot = Snapshot({"model": {"x": tensor}, "optimizer": {"step": torch.ones((), device=device)}})
        tensor.zero_()
    with ThreadPoolExecutor(1) as thread:
        parts = {file: thread.submit(snapshot.take, file).result() for file in snapshot.files}
    assert parts["model"]["x"].device.type == "cpu" and parts["model"]["x"].is_contiguous()
    assert torch.equal(parts["model"]["x"], expected) and parts["optimizer"]["step"] == 1 and not snapshot.files


def test_memory_for_copies_is_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (1200, 5000))
    one, two = torch.zeros(100), torch.zeros(101)  # 400 bytes and more
    assert _has_memory([one], torch.device("cuda")) and not _has_memory([one, two], torch.device("cuda"))


def test_nothing_is_compiled_after_the_first_steps(slow_device: torch.device, data: str) -> None:
    from torch._dynamo.utils import counters

    graphs: list[int] = []
    watch = Watch(lambda num_done: graphs.append(counters["stats"]["unique_graphs"]))
    counters.clear()
    try:
        train(settings_of(data, steps=8, compile="on"), slow_device, watch)
    finally:
        torch.compiler.reset()
    assert graphs[0] > 0, "something is compiled"
    assert graphs[1:] == [graphs[1]] * 7, graphs


@pytest.mark.parametrize(
    ("attention", "precision", "largest"), [("padded", "fp32", 1e-4), ("padded", "bf16", 0.02), ("auto", "auto", 0.02)]
)
def test_compiled_steps_have_the_losses_of_eager_ones(
    slow_device: torch.device, data: str, attention: str, precision: str, largest: float
) -> None:
    """Without dropout: compiled code draws other numbers."""
    losses = []
    for switch in ("off", "on"):
        watch = Watch()
        settings = settings_of(
            data, steps=4, log_every=1, dropout=0.0, attention=attention, precision=precision, compile=switch
        )
        try:
            train(settings, slow_device, watch)
        finally:
            torch.compiler.reset()
        losses.append([float(line["loss"]) for line in watch.lines])
    assert losses[1] == pytest.approx(losses[0], abs=largest) and len(losses[0]) == 4


def losses_of(data: str, device: torch.device, **values: object) -> list[float]:
    """The loss of each of six steps, in fp32, with dropout as eager code draws it."""
    watch = Watch()
    try:
        with torch._inductor.config.patch(fallback_random=True):
            settings = settings_of(data, steps=6, log_every=1, precision="fp32", **values)
            train(settings, device, watch, without_attention_dropout)
    finally:
        torch.compiler.reset()
    return [float(line["loss"]) for line in watch.lines]


def test_compiled_steps_drop_what_eager_ones_drop(slow_device: torch.device, data: str) -> None:
    """With torch's own switch for that. So the seed of each micro-batch reaches compiled code."""
    eager = losses_of(data, slow_device, dropout=0.3, compile="off")
    assert losses_of(data, slow_device, dropout=0.3, compile="on", cuda_graphs="off") == pytest.approx(eager, abs=1e-4)
    assert losses_of(data, slow_device, dropout=0.0, compile="off") != pytest.approx(eager, abs=1e-3)


@pytest.mark.parametrize("name", [GPU])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_graphs_compute_what_eager_steps_compute(name: str, dropout: float, data: str) -> None:
    """Replayed graphs get the seed of each micro-batch, the new batch and the new weights; and they are not left out."""
    from torch._dynamo.utils import counters

    device = torch.device(name, 0)
    counters.clear()
    eager = losses_of(data, device, dropout=dropout, compile="off")
    assert losses_of(data, device, dropout=dropout, cuda_graphs="on") == pytest.approx(eager, abs=1e-4)
    assert counters["stats"]["unique_graphs"] > 0 and not counters["inductor"]["cudagraph_skips"]


@pytest.mark.parametrize("name", [GPU])
def test_in_graphs_the_same_run_twice_is_the_same(name: str, data: str) -> None:
    """With the dropout of compiled code, which draws other numbers than eager code."""
    runs = []
    for _ in range(2):
        runs.append(train(settings_of(data, steps=6, dropout=0.3, cuda_graphs="on"), torch.device(name, 0), Watch()))
        torch.compiler.reset()
    assert distance(*runs) < 0.01


def test_activation_checkpointing_changes_memory_and_nothing_else(device: torch.device, data: str) -> None:
    losses, peaks = [], []
    for is_on in (False, True):
        watch = Watch()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        train(settings_of(data, steps=2, log_every=1, compile="off", activation_checkpointing=is_on), device, watch)
        losses.append([float(line["loss"]) for line in watch.lines])
        peaks.append(torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 1 - is_on)
    assert losses[1] == pytest.approx(losses[0], abs=1e-3 if device.type == "cuda" else 1e-6), "dropout is drawn again alike"
    assert peaks[1] < peaks[0]

"""The trainer's loop on each device: no host waits, no compilation after the first steps, buffers that are used again."""

import pytest
import torch

from gpu.on_device import Watch, no_waits, parameters_of, settings_of, train


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
    one, two = (parameters_of(train(settings_of(data, steps=4, precision="fp32"), device, Watch())) for _ in range(2))
    for x, y in zip(one, two, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0 if device.type == "cpu" else 1e-4)


def test_nothing_is_compiled_after_the_first_steps(slow_device: torch.device, data: str) -> None:
    from torch._dynamo.utils import counters

    graphs: list[int] = []
    watch = Watch(lambda num_done: graphs.append(counters["stats"]["unique_graphs"]))
    counters.clear()
    try:
        train(settings_of(data, steps=8, compile=True), slow_device, watch)
    finally:
        torch.compiler.reset()
    assert graphs[0] > 0, "something is compiled"
    assert graphs[1:] == [graphs[1]] * 7, graphs


@pytest.mark.parametrize("attention", ["padded", "auto"])
def test_compiled_steps_learn_what_eager_ones_learn(slow_device: torch.device, data: str, attention: str) -> None:
    """Without dropout: compiled code draws other numbers."""
    try:
        one, two = (
            parameters_of(
                train(settings_of(data, steps=3, dropout=0.0, attention=attention, compile=is_compiled), slow_device, Watch())
            )
            for is_compiled in (False, True)
        )
    finally:
        torch.compiler.reset()
    distance = sum(float((x - y).square().sum()) for x, y in zip(one, two, strict=True)) ** 0.5
    length = sum(float(x.square().sum()) for x in one) ** 0.5
    assert distance / length < 1e-2

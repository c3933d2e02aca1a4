"""Feeding: the thread hands out the same batches in order, its faults arrive at their step, and no buffer is reused early."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from batches import SHAPE, masked_rows, pack
from rows_of_ids import SPECIAL

from shards.errors import UserError
from shards.schema import Rows
from train.data.batch import PackedBatch, tensors_of
from train.data.feeding import Feeder, Packer, _PinnedBuffers
from train.data.reader import StepRows

NUM_STEPS, ROWS_PER_STEP, MICRO_BATCH = 5, 9, 6


def steps(last: int = NUM_STEPS) -> Iterator[StepRows]:
    """Steps of nine rows: one micro-batch of six, one of three; the step after the last is a fault."""
    for step in range(NUM_STEPS):
        if step == last:
            raise UserError(f"step {step} cannot be read")
        row_ids = np.arange(ROWS_PER_STEP) + step * ROWS_PER_STEP
        yield StepRows(step, masked_rows(ROWS_PER_STEP, step), row_ids, np.zeros(ROWS_PER_STEP, np.int32))


def feeder_of(rows: Iterator[StepRows]) -> Feeder:
    return Feeder(rows, Packer(SHAPE, SPECIAL["pad"], "padded", torch.device("cpu")), lambda step: 2, MICRO_BATCH)


def equal(one: PackedBatch, two: PackedBatch) -> bool:
    return all(torch.equal(x, y) for (_, x), (_, y) in zip(tensors_of(one), tensors_of(two), strict=True))


def test_steps_arrive_in_order_with_the_batches_that_packing_makes() -> None:
    feeder = feeder_of(steps())
    for expected in steps():
        step = feeder.next()
        assert step.row_ids.tolist() == expected.row_ids.tolist()
        assert [batch.tokens > 0 for batch in step.batches] == [True, True]
        for number, batch in enumerate(step.batches):
            assert equal(batch, pack(expected.micro_batch(number, MICRO_BATCH)))
    with pytest.raises(StopIteration):
        feeder.next()
    feeder.close()


def test_a_fault_arrives_at_its_step_and_not_before() -> None:
    feeder = feeder_of(steps(last=2))
    assert [feeder.next().row_ids[0] for _ in range(2)] == [0, ROWS_PER_STEP]
    with pytest.raises(UserError, match="step 2 cannot be read"):
        feeder.next()
    feeder.close()


def test_a_step_waits_for_its_own_copies_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The computing stream waits for whatever was copied so far, so no copy of the next step may have been started."""
    num_packed, waits = [0], []

    def pack_one(self: Packer, rows: Rows) -> PackedBatch:
        num_packed[0] += 1
        return pack(rows)

    monkeypatch.setattr(Packer, "pack", pack_one)
    monkeypatch.setattr(Packer, "receive", lambda self, batches: waits.append(num_packed[0]))
    feeder = feeder_of(steps())
    for _ in range(NUM_STEPS):
        feeder.next()
    feeder.close()
    assert waits == [2 * (step + 1) for step in range(NUM_STEPS)]


def test_a_step_is_packed_while_the_one_before_is_used() -> None:
    was_read = threading.Event()

    def watched() -> Iterator[StepRows]:
        source = steps()
        yield next(source)
        yield next(source)
        was_read.set()
        yield from source

    feeder = feeder_of(watched())
    feeder.next()
    feeder.next()
    assert was_read.wait(30), "the third step is packed without being asked for"
    feeder.close()


class Copy:
    """Stands in for an event: `log` gets what is done with it."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def record(self, _: Any) -> None:
        self.log.append(f"copy {self.name}")

    def synchronize(self) -> None:
        self.log.append(f"wait {self.name}")


def test_a_buffer_is_filled_only_after_its_last_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: events and streams are stand-ins, and the copies stay on the CPU."""
    log: list[str] = []
    pinned = object.__new__(_PinnedBuffers)
    pinned._device, pinned._turn, pinned._stream = torch.device("cpu"), 0, None
    pinned._buffers = [torch.zeros(8) for _ in range(2)]
    pinned._copied = [Copy(name, log) for name in "AB"]
    monkeypatch.setattr("torch.cuda.stream", lambda _: torch.no_grad())
    for _ in range(4):
        pinned.free()
        pinned.send(pack(masked_rows(2)))
    assert log == ["wait B", "copy B", "wait A", "copy A"] * 2

"""The batches of the next step, packed and moved to the device by a thread while the current step is computed.

    rows of a step -> thread: packed into pinned memory -> one copy per micro-batch, on a stream of its own -> StepBatches

The computing thread only launches work: it never packs and never waits for a copy. On a CPU nothing is copied.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from shards.schema import Rows
from train.data.batch import PackedBatch, pack_batch
from train.data.layout import Layout, Shape, block_bytes
from train.data.reader import StepRows

_NUM_BUFFERS = 2  # one is filled while the other is copied


class Packer:
    """Packs rows into batches of one shape on a device. For one thread to call, except `receive`."""

    def __init__(self, shape: Shape, pad_id: int, layout: Layout, device: torch.device) -> None:
        self._shape, self._pad_id, self._layout, self._device = shape, pad_id, layout, device
        self._pinned = _PinnedBuffers(block_bytes(shape, layout), device) if device.type == "cuda" else None

    def pack(self, rows: Rows) -> PackedBatch:
        """The batch of at most `shape.rows` rows. On a GPU it may still be on its way: see `receive`."""
        memory = self._pinned.free() if self._pinned else None
        batch = pack_batch(rows, self._shape, self._pad_id, self._layout, memory)
        return self._pinned.send(batch) if self._pinned else batch

    def receive(self, batches: Sequence[PackedBatch]) -> None:
        """Makes the work that the calling thread launches from now on wait for these batches. The thread itself continues."""
        if self._pinned:
            self._pinned.receive(batches)


class _PinnedBuffers:
    """Pinned memory, allocated once, through which batches go to a GPU."""

    def __init__(self, num_bytes: int, device: torch.device) -> None:
        self._device, self._turn = device, 0
        self._buffers = [torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True) for _ in range(_NUM_BUFFERS)]
        self._copied = [torch.cuda.Event() for _ in range(_NUM_BUFFERS)]  # type: ignore[no-untyped-call]
        # A stream of its own: on the computing stream a copy would wait for everything that is launched already.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def free(self) -> torch.Tensor:
        """The next buffer, once its last copy is done."""
        self._turn = (self._turn + 1) % _NUM_BUFFERS
        self._copied[self._turn].synchronize()
        return self._buffers[self._turn]

    def send(self, batch: PackedBatch) -> PackedBatch:
        """Starts to copy the batch, which is in the buffer of the last `free`."""
        with torch.cuda.stream(self._stream):
            moved = batch.to(self._device)
            self._copied[self._turn].record(self._stream)
        return moved

    def receive(self, batches: Sequence[PackedBatch]) -> None:
        """See `Packer.receive`."""
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        for batch in batches:
            batch.block.record_stream(computing)  # the memory was allocated on the other stream


@dataclass(frozen=True)
class StepBatches:
    """A rank's batches of one step. Missing micro-batches of a short step are empty ones."""

    row_ids: npt.NDArray[np.int64]  # in the split, in the order of the batches
    sources: npt.NDArray[np.int32]  # the data set of each row
    batches: list[PackedBatch]


class Feeder:
    """Packs steps one ahead of the loop, in a thread. Close it before the iterator of rows."""

    def __init__(
        self, steps: Iterator[StepRows], packer: Packer, num_micro_batches: Callable[[int], int], micro_batch: int
    ) -> None:
        """`num_micro_batches(step)` of `micro_batch` rows are this rank's part of a step."""
        self._steps, self._packer = steps, packer
        self._num_micro_batches, self._micro_batch = num_micro_batches, micro_batch
        self._thread = ThreadPoolExecutor(1, "pack")
        self._next: Future[StepBatches | None] = self._thread.submit(self._pack_next)

    def next(self) -> StepBatches:
        """The next step, on the device. Raises what failed in the thread, and StopIteration after the last step."""
        step = self._next.result()
        if step is None:
            raise StopIteration
        self._packer.receive(step.batches)  # before the next copies start: it waits for all that were started
        self._next = self._thread.submit(self._pack_next)
        return step

    def close(self) -> None:
        """Ends the thread after the step that it is packing."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _pack_next(self) -> StepBatches | None:
        step = next(self._steps, None)
        if step is None:
            return None
        parts = (step.micro_batch(number, self._micro_batch) for number in range(self._num_micro_batches(step.step)))
        return StepBatches(step.row_ids, step.sources, [self._packer.pack(rows) for rows in parts])

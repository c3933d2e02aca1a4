"""The processes of a run: how they find each other, and the few values that they exchange beside gradients.

torchrun's environment variables name them. Without torchrun a process is a run of one.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from shards.errors import UserError
from train.device.torch_versions import without_buffer_sync
from train.settings import Precision

Value = TypeVar("Value")
_POLL_S = 0.02
_CONNECT_LIMIT = timedelta(seconds=60)  # to reach the store that torchrun holds; it exists before its processes do
NO_MEMORY = "can't allocate memory"  # torch's error on the CPU, which has no class of its own
# torch's errors, in several wordings, when the process at the other end is gone.
_LOST = re.compile(r"gloo|NCCL|[Pp]eer|process group|Broken pipe")


class LostRankError(Exception):
    """Another process of the run ended unexpectedly. torchrun ends them all, and with --max-restarts starts them again."""


@dataclass(frozen=True)
class Ranks:
    """This process among `world_size`, and its device."""

    rank: int
    world_size: int
    device: torch.device
    control: Any = None  # a gloo group for small messages between CPUs; None in a run of one
    local: range = range(1)  # the ranks of this machine

    def sum_later(self, values: Sequence[int]) -> Callable[[], list[int]]:
        """Starts to add up the values of all ranks, element by element. The returned function waits for the sums."""
        total = torch.tensor(values, dtype=torch.int64)
        if self.world_size == 1:
            return total.tolist
        work = dist.all_reduce(total, group=self.control, async_op=True)

        def wait() -> list[int]:
            work.wait()
            return [int(value) for value in total.tolist()]

        return wait

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all ranks, in place, on its device."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks, by rank, on every rank."""
        values: list[Any] = [value]
        if self.world_size > 1:
            values = [None] * self.world_size
            dist.all_gather_object(values, value, group=self.control)
        return values

    def agreed(self, action: Callable[[], Value]) -> Value:
        """Runs `action` on every rank. The first rank's UserError is raised on all. Ranks must not communicate in it."""
        own_fault, value = None, None
        try:
            value = action()
        except UserError as error:
            own_fault = error
        for rank, fault in enumerate(self.gather(own_fault)):  # as an object: its class holds the exit code
            if fault is not None:
                raise own_fault if rank == self.rank and own_fault else fault
        return value  # type: ignore[return-value]  # there is no fault, so there is a value

    def from_first(self, make: Callable[[], Value]) -> Value:
        """The result of `make` on rank 0, on every rank. Its UserError is raised on every rank."""
        values = [self.agreed(lambda: make() if self.rank == 0 else None)]
        if self.world_size > 1:
            dist.broadcast_object_list(values, 0, group=self.control)
        return values[0]  # type: ignore[return-value]  # rank 0 has a value

    def share_tensor(self, tensor: torch.Tensor) -> None:
        """Overwrites the tensor with that of rank 0."""
        if self.world_size > 1:
            dist.broadcast(tensor, 0)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model in DDP. Gradients are summed, not averaged: losses are divided by global counts already."""
        if self.world_size == 1:
            return model
        wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True, **without_buffer_sync())
        wrapped.register_comm_hook(None, _sum_gradients)
        return wrapped


def _sum_gradients(_: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:  # type: ignore[name-defined]
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])  # type: ignore[no-any-return]  # torch leaves it open


def is_first() -> bool:
    """Whether this process is the one that prints."""
    return os.environ.get("RANK", "0") == "0"


def use_half(precision: Precision, device: torch.device) -> bool:
    """Whether `--precision auto|fp32|bf16` means bf16 on this device."""
    return precision == "bf16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    )


def autocast(device: torch.device, half: bool) -> Any:
    """The context of a forward pass, in bf16 if `half`. Weights stay fp32."""
    return torch.autocast(device.type, torch.bfloat16) if half else nullcontext()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Joins this process to the others of the run, and leaves them at the end. Raises UserError when there are too few GPUs."""
    rank, world_size, local_rank, local_size = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))
    )
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if local_size > torch.cuda.device_count():
            raise UserError(
                f"{local_size} processes on a machine with {torch.cuda.device_count()} GPUs; start one process per GPU"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    elif "OMP_NUM_THREADS" not in os.environ:
        # The order of sums depends on the number of threads. With one, results are the same on any number of processes per
        # machine; and processes scale better than threads here.
        torch.set_num_threads(1)
    if world_size == 1:
        with _full_memory():
            yield Ranks(0, 1, device)
        return
    with _lost_ranks(rank), _full_memory():
        _init_process_group(device, rank, world_size)
        try:
            local = range(rank - local_rank, rank - local_rank + local_size)
            yield Ranks(rank, world_size, device, dist.new_group(backend="gloo"), local)
        finally:
            dist.destroy_process_group()


@contextmanager
def _lost_ranks(rank: int) -> Iterator[None]:
    """Raises LostRankError for torch's errors about the other processes."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not _LOST.search(str(error)):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise LostRankError(f"rank {rank}: another process of the run was lost, or cannot be reached ({reason})") from error


@contextmanager
def _full_memory() -> Iterator[None]:
    """Raises UserError for torch's errors about the memory of the device."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and NO_MEMORY not in str(error):
            raise
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"a micro-batch does not fit the device's memory ({reason}); set a smaller --micro-batch, or "
            "--activation-checkpointing"
        ) from error


def _init_process_group(device: torch.device, rank: int, world_size: int) -> None:
    has_agent_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    limit = _CONNECT_LIMIT if has_agent_store else dist.default_pg_timeout  # without it, the store waits for rank 0
    store, _, _ = next(rendezvous("env://", timeout=limit))
    store.set_timeout(dist.default_pg_timeout)  # from here on it waits for slower ranks
    store = PrefixStore(_name_of_start(store, rank, world_size), store)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)


def _name_of_start(store: Store, rank: int, world_size: int) -> str:
    """A name that the processes of this start have in common, and those of an earlier start do not.

    torchrun's processes meet in a store that outlives their restarts (pytorch issue 135712), and addresses of dead processes
    would still be in it. So each process writes a random word. Rank 0 proposes the digest of all words as the name, until all
    ranks have answered with it. A rank answers only a proposal that contains its own word.
    """
    word = secrets.token_hex(8)
    store.set(f"word/{rank}", word)
    others = [(f"word/{other}", f"answer/{other}") for other in range(1, world_size)]
    while rank == 0:
        words = [word, *(store.get(key).decode() for key, _ in others)]
        name = sha256(" ".join(words).encode()).hexdigest()
        store.set("proposal", json.dumps([name, words]))
        time.sleep(_POLL_S)
        if all(store.check([answer]) and store.get(answer).decode() == name for _, answer in others):
            store.set(f"agreed/{name}", "")
            return name
    while True:
        proposed, words = json.loads(store.get("proposal"))
        if len(words) == world_size and words[rank] == word:
            store.set(f"answer/{rank}", proposed)
            if store.check([f"agreed/{proposed}"]):
                return str(proposed)
        time.sleep(_POLL_S)

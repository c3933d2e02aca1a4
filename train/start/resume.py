"""Resuming: the newest good checkpoint of a run, checked against its settings, on every rank.

--out -> lock -> newest checkpoint -> same data, model and settings? -> rank 0 loads -> all ranks get its tensors
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from shards import storage
from shards.errors import UserError
from train import checkpoint
from train.checkpoint import MODEL, OPTIMIZER, Checkpoint
from train.history import RUN_NAME
from train.recipe.changes import compare, compare_branch
from train.recipe.phases import Start
from train.recipe.records import branch_of, start_of
from train.recipe.sources import name_phase
from train.run import Run

Tensors = dict[str, torch.Tensor]


@contextmanager
def claimed(run: Run) -> Iterator[None]:
    """Locks a local --out against other runs, and removes what a killed one left half-written."""
    out, ranks = run.settings.out, run.ranks
    with ExitStack() as stack:

        def claim() -> None:
            if ranks.rank == 0:
                stack.enter_context(storage.locked(out, ".lock", "run"))
                checkpoint.remove_unfinished(out)

        ranks.agreed(claim)
        yield


@dataclass(frozen=True)
class _Loaded:
    """A checkpoint to continue from, with its tensors, on rank 0."""

    saved: Checkpoint
    model: Tensors
    state: Tensors
    is_branch: bool  # of another run


def resume(run: Run, warn: Callable[[str], None]) -> list[str]:
    """Loads the newest good checkpoint into the run, or that of `--branch`. Returns messages.

    Rank 0 reads it; the others get its tensors. Raises UserError, on every rank, when it is of another model, data set, seed,
    batch or optimizer, or when the recipe has changed in what is already done.
    """
    loaded: _Loaded | None = None

    def find() -> Start:
        nonlocal loaded
        loaded = _find(run.settings.out, run.settings.branch, warn)
        if loaded is None:
            return Start()
        return branch_of(loaded.saved.record) if loaded.is_branch else start_of(loaded.saved.record)

    start = run.ranks.from_first(find)
    run.ranks.agreed(lambda: run.begin(start))
    messages = run.ranks.from_first(lambda: _fill(run, loaded) if loaded else [])
    for tensors in run.tensors().values():
        for tensor in tensors.values():
            run.ranks.share_tensor(tensor.data)
    run.ranks.agreed(lambda: _write_settings(run))
    return messages


def _find(out: str, branch: str, warn: Callable[[str], None]) -> _Loaded | None:
    newest = checkpoint.newest(out, _read_whole, warn)
    if newest is not None:
        saved, (model, state) = newest
        return _Loaded(saved, model, state, is_branch=False)
    if branch:
        saved, (model, state) = checkpoint.locate(branch, _read_whole, warn)
        return _Loaded(saved, model, state, is_branch=True)
    return None


def _fill(run: Run, loaded: _Loaded) -> list[str]:
    """Copies the tensors of a checkpoint that fits the run."""
    saved = loaded.saved
    if loaded.is_branch:
        messages = [f"branching off from step {saved.step} ({saved.url})"]
        refused = compare_branch(saved.record, run.record())
        if refused:
            raise UserError(f"--branch {saved.url}: is of a run with other settings ({'; '.join(refused)}); use those")
    else:
        messages = [f"resuming from step {saved.step} ({saved.url})", *_check_record(saved, run)]
    for file, values in ((MODEL, loaded.model), (OPTIMIZER, loaded.state)):
        checkpoint.copy_tensors(run.tensors()[file], values, storage.join(saved.url, file))
    return messages


def _check_record(saved: Checkpoint, run: Run) -> Iterator[str]:
    """Yields a message per setting that has changed and may. Raises UserError that lists what must not change."""
    refused, allowed = compare(saved.record, run.record(), run.start.phase)
    yield from (f"changed since: {change}" for change in allowed)
    if refused:
        raise UserError(
            f"{run.settings.out}: was begun with other settings ({'; '.join(refused)}); use those, or another --out"
        )
    if run.phase.begun_position > run.phase.end:
        limit = "more than --steps, --tokens or --epochs now allow; raise them"
        error = UserError(f"{run.settings.out}: has done {run.phase.begun_step} steps, {limit}")
        name_phase(error, run.start.phase, run.recipe)
        raise error


def _read_whole(saved: Checkpoint) -> tuple[Tensors, Tensors]:
    """Model and optimizer. The other files are checked too: evaluation and export will need them."""
    for name in saved.record["files"]:
        if name not in (MODEL, OPTIMIZER):
            saved.read(name)
    return saved.tensors(MODEL), saved.tensors(OPTIMIZER)


def _write_settings(run: Run) -> None:
    if run.ranks.rank == 0:
        storage.publish(storage.join(run.settings.out, RUN_NAME), json.dumps(run.record(), indent=1).encode())

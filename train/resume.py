"""Resuming: the newest good checkpoint of a run, checked against its settings, on every rank.

--out -> lock -> newest checkpoint -> same data, model and settings? -> rank 0 loads -> all ranks get its tensors
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch

from shards import storage
from shards.errors import UserError
from shards.manifest import differences
from train import checkpoint
from train.checkpoint import MODEL, OPTIMIZER, Checkpoint
from train.history import RUN_NAME
from train.run import Run
from train.settings import FIXED

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


def resume(run: Run, warn: Callable[[str], None]) -> list[str]:
    """Loads the newest good checkpoint into the run. Rank 0 reads it; the others get its tensors. Returns messages.

    Raises UserError, on every rank, when the checkpoint is of another model, data set, seed, batch or optimizer.
    """

    def load() -> tuple[int, int, list[str]]:
        newest = checkpoint.newest(run.settings.out, _read_whole, warn)
        if newest is None:
            return 0, 0, []
        saved, (model, moments) = newest
        messages = [f"resuming from step {saved.step} ({saved.url})", *_check_record(saved, run)]
        for file, values in ((MODEL, model), (OPTIMIZER, moments)):
            checkpoint.copy_tensors(run.tensors()[file], values, storage.join(saved.url, file))
        return saved.step, saved.record["position"], messages

    run.first_step, run.first_position, messages = run.ranks.from_first(load)
    for tensors in run.tensors().values():
        for tensor in tensors.values():
            run.ranks.share_tensor(tensor.data)
    run.ranks.agreed(lambda: _write_settings(run))
    return messages


def _read_whole(saved: Checkpoint) -> tuple[Tensors, Tensors]:
    """Model and optimizer. The other files are checked too: evaluation and export will need them."""
    for name in saved.record["files"]:
        if name not in (MODEL, OPTIMIZER):
            saved.read(name)
    return saved.tensors(MODEL), saved.tensors(OPTIMIZER)


def _write_settings(run: Run) -> None:
    if run.ranks.rank == 0:
        storage.publish(storage.join(run.settings.out, RUN_NAME), json.dumps(run.record(), indent=1).encode())


def _check_record(saved: Checkpoint, run: Run) -> Iterator[str]:
    """Yields a message per setting that has changed and may. Raises UserError that lists what must not change."""
    old, new = saved.record, run.record()
    refused = []
    if any(old.get(name) != new[name] for name in ("data_fingerprint", "tokenizer_fingerprint", "mask_prob")):
        refused.append("the data set is another one")
    refused += [f"order {change}" for change in differences(old["order"], new["order"])]
    refused += [f"model {change}" for change in differences(old["model"], new["model"])]
    both = old["settings"].keys() & new["settings"].keys()  # a setting of another release has nothing to be compared with
    before, now = ({name: record["settings"][name] for name in both} for record in (old, new))
    for change in differences(before, now):
        if change.partition(":")[0] in FIXED:
            refused.append(change)
        else:
            yield f"changed since: {change}"
    if refused:
        raise UserError(
            f"{run.settings.out}: was begun with other settings ({'; '.join(refused)}); use those, or another --out"
        )
    is_too_far = saved.step > run.settings.steps if run.settings.steps else old["position"] > run.end
    if is_too_far:
        raise UserError(f"{run.settings.out}: has done {saved.step} steps, more than --steps or --epochs now allow; raise them")

"""What has changed between the record of a checkpoint and that of the run that continues from it.

record of the checkpoint, record of the run -> what must not change -> refused; what may -> a message
"""

from collections.abc import Iterator, Mapping
from typing import Any

from shards.manifest import differences
from train.settings import FIXED, LENGTHS

# What a branch has in common with its run: the order of the rows, and the meaning of the optimizer's state.
_OF_BRANCH = frozenset({"seed", "optimizer", "betas", "epsilon"})

Record = Mapping[str, Any]


def compare(old: Record, new: Record, current: int) -> tuple[list[str], list[str]]:
    """(what must not change, what may) of a run in the phase with index `current`. Phases to come may change."""
    refused: list[str] = []
    allowed: list[str] = []
    if old.get("tokenizer_fingerprint") != new["tokenizer_fingerprint"]:
        refused.append("the tokenizer is another one")
    pairs = zip(phases_of(old), phases_of(new), strict=False)
    for index, (before, now) in enumerate(pairs):
        if index > current:
            break
        prefix = f"phase {index + 1} " if len(new["phases"]) > 1 else ""
        fixed = FIXED | LENGTHS if index < current else FIXED
        refused += [prefix + change for change in _data_changes(before, now)]
        for change in _setting_changes(before, now):
            if _name(change) in fixed:
                refused.append(prefix + change)
            elif index == current:
                allowed.append(change)
    refused += [f"model {change}" for change in differences(old["model"], new["model"])]
    return refused, allowed


def compare_branch(old: Record, new: Record) -> list[str]:
    """What must be as in the run that a branch begins from, and is not."""
    refused = [f"model {change}" for change in differences(old["model"], new["model"]) if not _is_of_a_phase(_name(change))]
    if old["tokenizer_fingerprint"] != new["tokenizer_fingerprint"]:
        refused.append("the tokenizer is another one")
    return refused + [change for change in _setting_changes(old, new) if _name(change) in _OF_BRANCH]


def _is_of_a_phase(field: str) -> bool:
    """Whether phases set this field of a configuration."""
    return "dropout" in field or field == "rope_parameters"


def phases_of(record: Record) -> list[Record]:
    """The phases of a record. A release before there were phases wrote the only one at the top."""
    return record.get("phases", [record])  # type: ignore[no-any-return]


def _data_changes(before: Record, now: Record) -> Iterator[str]:
    if any(before.get(name) != now[name] for name in ("data_fingerprint", "mask_prob")):
        yield "the data set is another one"
    yield from (f"order {change}" for change in differences(before["order"], now["order"]))


def _setting_changes(before: Record, now: Record) -> list[str]:
    old, new = before["settings"], now["settings"]
    both = old.keys() & new.keys()  # a setting of another release has nothing to be compared with
    return differences({name: old[name] for name in both}, {name: new[name] for name in both})


def _name(change: str) -> str:
    """The name in a line `name: old -> new`."""
    return change.partition(":")[0]

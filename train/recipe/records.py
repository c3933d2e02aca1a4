"""What a checkpoint records of the phases of a run, and where a run continues from such a record.

Phase -> describe: what identifies it; progress: what is done -> training.json -> start_of, branch_of -> Start
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from shards.manifest import fingerprint as fingerprint_of
from shards.storage.redaction import redacted
from train.recipe.phases import Phase, Start
from train.recipe.sources import Served


def describe(phase: Phase) -> dict[str, Any]:
    """What identifies a phase."""
    orders = {source.name: source.describe_order() for source in phase.sources}
    fingerprints = [source.fingerprint for source in phase.sources]
    is_single = len(fingerprints) == 1
    settings = {name: _plain(value) for name, value in asdict(phase.settings).items()}
    if is_single:
        settings["data"] = settings["data"][0]
    return {
        "data_fingerprint": fingerprints[0] if is_single else fingerprint_of(fingerprints),
        "order": phase.sources[0].describe_order() if is_single else orders,
        "mask_prob": phase.masking.probability if phase.masking else None,
        "settings": settings,
    }


def _plain(value: Any) -> Any:
    """A setting as JSON has it, without passwords in URLs."""
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return redacted(value) if isinstance(value, str) else value


def progress(phase: Phase, step: int) -> dict[str, Any]:
    """What is done after a step of the run, which is in the phase."""
    position = phase.position(step)
    before, now = (phase.served(rows) for rows in (0, position - phase.first_position))
    return {
        "position": position,
        "phase": {"number": phase.number, "first_step": phase.first_step, "first_position": phase.first_position},
        "served_before_phase": {fingerprint: asdict(served) for fingerprint, served in before.items()},
        "served": {fingerprint: asdict(served) for fingerprint, served in now.items()},
    }


def start_of(record: Mapping[str, Any]) -> Start:
    """Where a run continues from a checkpoint with this record."""
    step, position = record["step"], record["position"]
    if "phase" not in record:  # of a release before there were phases
        return Start(0, step, position)
    phase = record["phase"]
    served = _served(record["served_before_phase"])
    return Start(phase["number"] - 1, step, position, phase["first_step"], phase["first_position"], served)


def branch_of(record: Mapping[str, Any]) -> Start:
    """Where a new run begins that continues from another run's checkpoint with this record: a first phase, from there."""
    step, position = record["step"], record["position"]
    served = _served(record["served"]) if "phase" in record else {record["data_fingerprint"]: _served_alone(record)}
    return Start(0, step, position, step, position, served)


def _served(values: Mapping[str, Any]) -> dict[str, Served]:
    return {fingerprint: Served(**of_source) for fingerprint, of_source in values.items()}


def _served_alone(record: Mapping[str, Any]) -> Served:
    """How the data set of a run of one was read, of a release before there were phases."""
    return Served(record["settings"]["seed"], record["order"]["lanes"], record["position"])

"""The settings of each phase: from a recipe file, or from the flags of a run of one phase.

lr = 1e-4                   # settings of the run; flags override them
[[phase]]
data = "wiki-128"           # settings of the phase, which override both
steps = 900_000
[[phase]]
data = ["wiki-512", "books-512"]
weights = [3, 1]
tokens = 10_000_000_000
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import PurePosixPath
from typing import Any

from shards.command.options import flag, named_values, parse_toml, read_values
from shards.errors import UserError
from train.settings import PHASE_ONLY, PHASE_SETTINGS, PLACES, Settings

_FIELDS = {f.name: f for f in fields(Settings)}


def read_recipe(arguments: Mapping[str, Any]) -> list[Settings]:
    """The settings of each phase, from parsed flags: of `--recipe`, or one. Raises UserError, with the number of the phase."""
    path = arguments.get("recipe")
    if path is None:
        return [Settings(**read_values(arguments, Settings))]
    if arguments.get("config") is not None:
        raise UserError(f"--config is not allowed with --recipe; set its settings in {path}, or as flags")
    if "out" not in arguments:
        raise UserError("--out is missing; set the folder or URL of the run")
    for name in PHASE_ONLY:
        if name in arguments:
            raise UserError(f"{flag(name)} is a setting of each phase; set it in {path}")
    of_run, phases = _parse(path)
    recipe = []
    for number, values in enumerate(phases, 1):
        try:
            merged = read_values({"data": (), **of_run, **arguments, **values}, Settings)
            recipe.append(Settings(**merged))
        except UserError as error:
            raise UserError(f"{path}: phase {number}: {error}") from error
    return recipe


def _parse(path: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The settings of the run, and those of each phase."""
    values = parse_toml(path)
    phases = values.pop("phase", None)
    if not isinstance(phases, list) or not phases or not all(isinstance(phase, dict) for phase in phases):
        raise UserError(f"{path}: has no [[phase]]; add one for each phase")
    of_run = _named(values, path)
    for name in of_run:
        if name in PHASE_ONLY:
            raise UserError(f"{path}: {name} is a setting of each phase; set it below each [[phase]]")
    return of_run, [_phase(phase, path, number) for number, phase in enumerate(phases, 1)]


def _phase(values: Mapping[str, Any], path: str, number: int) -> dict[str, Any]:
    """The settings of a phase, with its data sets relative to the recipe."""
    place = f"{path}: phase {number}"
    phase = _named(values, place)
    for name in phase:
        if name not in PHASE_SETTINGS:
            raise UserError(f"{place}: {name} is a setting of the whole run; set it above the first [[phase]]")
    if "data" not in phase:
        raise UserError(f"{place}: has no data; set the data set that it reads, or several")
    data = phase["data"] if isinstance(phase["data"], list) else [phase["data"]]
    return phase | {"data": [_beside(path, url) if isinstance(url, str) else url for url in data]}


def _named(values: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The values under the names of their settings."""
    for key in values:
        if key.replace("-", "_") in PLACES:
            raise UserError(f"{place}: {key} does not belong in a recipe; set {flag(key)} on the command line")
    return named_values(values, _FIELDS, place)


def _beside(path: str, url: str) -> str:
    """A place that is relative to the recipe's folder."""
    if "://" in url or PurePosixPath(url).is_absolute() or not url:
        return url
    folder = path.rpartition("/")[0]
    return f"{folder}/{url}" if folder else url

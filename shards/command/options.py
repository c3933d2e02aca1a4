"""Settings as one frozen dataclass a command: a field is a flag, its metadata holds the help; TOML below the flags."""

import argparse
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from types import NoneType, UnionType
from typing import Any, get_args

from shards import storage
from shards.errors import UserError

_BYTES = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def option(
    help: str,
    default: Any = MISSING,
    choices: Sequence[str] | None = None,
    metavar: str | None = None,
    shown: str | None = None,
) -> Any:
    """A field. A metavar of BYTES takes sizes such as 64MB; `shown` is said in the help instead of the default."""
    metadata = {"help": help, "choices": choices, "metavar": metavar, "shown": shown}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def flag(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


def check_types(settings: Any) -> None:
    """Raises UserError for a value of another type than its field's, or one that is not among its choices."""
    for f in fields(settings):
        value, choices = getattr(settings, f.name), f.metadata["choices"]
        if choices and value not in choices:
            raise UserError(f"{flag(f.name)} is {value!r}, must be one of {', '.join(choices)}")
        kind = _kind(f)
        if value is None and f.default is None:
            continue
        fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
        if "\0" in (value if isinstance(value, str) else "".join(map(str, value)) if isinstance(value, tuple) else ""):
            raise UserError(f"{flag(f.name)} is {value!r}: no name has a NUL in it")
        part = _part(f)
        parts = (str,) if part is str else (int, float)
        if not fits or (kind is tuple and not all(isinstance(v, parts) and not isinstance(v, bool) for v in value)):
            many = "a list of texts" if part is str else "a list of numbers"
            raise UserError(f"{flag(f.name)} is {value!r}, must be {many if kind is tuple else f'of type {kind.__name__}'}")


def _kind(f: Field[Any]) -> type:
    """The type of a field's values: that of `X | None` is X."""
    if isinstance(f.type, UnionType):
        kind: type = next(kind for kind in get_args(f.type) if kind is not NoneType)
        return kind
    return f.type if isinstance(f.type, type) else tuple


def _part(f: Field[Any]) -> type:
    """The type of the parts of a field that is a tuple."""
    part: type = get_args(f.type)[0] if _kind(f) is tuple else str
    return part


def check_ranges(settings: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raises UserError for a value outside its (lowest, highest)."""
    for name, (low, high) in ranges.items():
        if not low <= getattr(settings, name) <= high:
            raise UserError(f"{flag(name)} is {getattr(settings, name)}, must be from {low} to {high}")


def parse_bytes(text: str) -> int:
    """Bytes from text such as 64MB, 1.5GiB or 4096; the units are powers of 1024."""
    match = _BYTES.fullmatch(text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write for example 64MB or 1GB")
    return int(float(match[1]) * 1024 ** _POWERS[match[2].lower()])


def add_arguments(parser: argparse.ArgumentParser, settings: type, sections: Mapping[str, str]) -> None:
    """A flag for every field, absent from the result where not given, and `--config`.

    `sections`: titles of the help's sections, by the field that each begins with.
    """
    target: argparse._ActionsContainer = parser
    for f in fields(settings):
        if f.name in sections:
            target = parser.add_argument_group(sections[f.name])
        add: dict[str, Any] = {"help": _help(f), "default": argparse.SUPPRESS}
        if f.type is bool:
            target.add_argument(flag(f.name), action="store_true", **add)
            continue
        add |= {name: f.metadata[name] for name in ("metavar", "choices")}
        if _kind(f) is tuple:
            add |= {"nargs": "+", "type": _part(f)}
        else:
            add |= {"type": parse_bytes if f.metadata["metavar"] == "BYTES" else _kind(f)}
        target.add_argument(flag(f.name), **add)
    target.add_argument("--config", metavar="FILE.toml", help="settings as `name = value` lines; flags win over them")


def _help(f: Field[Any]) -> str:
    text = str(f.metadata["help"])
    if f.default is not MISSING and f.type is not bool and (f.metadata["shown"] or f.default not in (None, ())):
        text += f" (default: {f.metadata['shown'] or f.default})"
    return text.replace("%", "%%")


def read_values(arguments: Mapping[str, Any], settings: type) -> dict[str, Any]:
    """The fields that were given: parsed flags over `--config`. Raises UserError where a field without a default is not."""
    names = {f.name: f for f in fields(settings)}
    values = _read_config(arguments["config"], names) if arguments.get("config") is not None else {}
    values |= {name: value for name, value in arguments.items() if name in names}
    for name, f in names.items():
        if f.default is MISSING and name not in values:
            raise UserError(f"{flag(name)} is missing")
        if name in values and _kind(f) is tuple:
            value = values[name]
            values[name] = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return values


def _read_config(path: str, names: Mapping[str, Field[Any]]) -> dict[str, Any]:
    try:
        values = tomllib.loads(storage.read_bytes(path).decode())
    except ValueError as error:  # of TOML, of UTF-8, or of a number with too many digits
        raise UserError(f"{path}: not a TOML file: {error}") from error
    values = {name.replace("-", "_"): value for name, value in values.items()}
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise UserError(f"{path}: unknown setting {unknown[0]!r}; there are {', '.join(sorted(names))}")
    for name, value in values.items():
        if names[name].metadata["metavar"] == "BYTES" and isinstance(value, str):
            try:
                values[name] = parse_bytes(value)
            except argparse.ArgumentTypeError as error:
                raise UserError(f"{path}: {name}: {error}") from error
    return values

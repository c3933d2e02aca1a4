"""One frozen dataclass per command holds its settings: a field is a flag, its type gives the choices, its metadata the help.

class Settings:
    seed: int = option("seed of every random draw", 0, metavar="N")
    format: Literal["parquet", "webdataset"] = option("file format", "parquet")

add_arguments(parser, Settings, sections)          the flags, and --config FILE.toml
Settings(**read_values(arguments, Settings))       flags override the file, the file overrides the defaults
check_types(self), check_ranges(self, ranges)      in __post_init__
"""

import argparse
import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, field, fields
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from shards import storage
from shards.errors import UserError

_BYTES = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def option(
    help: str,
    default: Any = MISSING,
    metavar: str | None = None,
    shown: str | None = None,
    bare: str | None = None,
    words: Mapping[str, int] = MappingProxyType({}),
) -> Any:
    """A field. With the metavar BYTES it accepts sizes such as 64MB.

    The help shows `shown` in place of the default. The flag without a value means `bare`. A number may be one of `words`.
    """
    metadata = {"help": help, "metavar": metavar, "shown": shown, "bare": bare, "words": words}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def flag(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


def check_types(settings: Any) -> None:
    """Raises UserError for a value that is not of its field's type or not among its choices."""
    for f in fields(settings):
        value, choices, kind = getattr(settings, f.name), _choices(f), _kind(f)
        if choices and value not in choices:
            raise UserError(f"{flag(f.name)} is {value!r}, must be one of {', '.join(choices)}")
        if value is None and f.default is None:
            continue
        texts = value if isinstance(value, tuple) else (value,)
        if any("\0" in text for text in texts if isinstance(text, str)):
            raise UserError(f"{flag(f.name)} is {value!r}: a NUL is not allowed in a name")
        if kind is not tuple:
            if not _is_a(value, kind):
                raise UserError(f"{flag(f.name)} is {value!r}, must be of type {kind.__name__}")
        elif not isinstance(value, tuple) or not all(_is_a(part, _part(f)) for part in value):
            raise UserError(f"{flag(f.name)} is {value!r}, must be a list of {'texts' if _part(f) is str else 'numbers'}")


def _is_a(value: object, kind: type) -> bool:
    """Whether the value is of that type. A whole number is a float too; True and False are no numbers."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _choices(f: Field[Any]) -> tuple[str, ...]:
    """The texts that a field of a Literal type allows, in order; none for other types, which are not limited to a list."""
    return get_args(f.type) if get_origin(f.type) is Literal else ()


def _kind(f: Field[Any]) -> type:
    """The type of a field's values: str for a Literal, X for `X | None`, tuple for `tuple[X, ...]`."""
    if _choices(f):
        return str
    if isinstance(f.type, UnionType):
        kind: type = next(kind for kind in get_args(f.type) if kind is not NoneType)
        return kind
    return f.type if isinstance(f.type, type) else tuple


def _part(f: Field[Any]) -> type:
    """X of a field of type `tuple[X, ...]`."""
    part: type = get_args(f.type)[0] if _kind(f) is tuple else str
    return part


def check_ranges(settings: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raises UserError for a value that is outside its (lowest, highest)."""
    for name, (low, high) in ranges.items():
        if not low <= getattr(settings, name) <= high:
            raise UserError(f"{flag(name)} is {getattr(settings, name)}, must be from {low} to {high}")


def parse_bytes(text: str) -> int:
    """Bytes from text such as 64MB, 1.5GiB or 4096; the units are powers of 1024."""
    match = _BYTES.fullmatch(text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write for example 64MB or 1GB")
    return int(float(match[1]) * 1024 ** _POWERS[match[2].lower()])


def add_arguments(parser: argparse.ArgumentParser, settings: type, sections: Mapping[str, str]) -> None:
    """Adds a flag for every field, and `--config`. A flag that is not on the command line is not in the result.

    `sections`: titles of the sections of the help, by the first field of each.
    """
    target: argparse._ActionsContainer = parser
    for f in fields(settings):
        if f.name in sections:
            target = parser.add_argument_group(sections[f.name])
        add: dict[str, Any] = {"help": _help(f), "default": argparse.SUPPRESS}
        if f.type is bool:
            target.add_argument(flag(f.name), action="store_true", **add)
            continue
        add |= {"metavar": f.metadata["metavar"], "choices": _choices(f) or None}
        if _kind(f) is tuple:
            add |= {"nargs": "+", "type": _part(f)}
        else:
            add |= {"type": _parser(f)}
        if f.metadata["bare"]:
            add |= {"nargs": "?", "const": f.metadata["bare"]}
        target.add_argument(flag(f.name), **add)
    target.add_argument("--config", metavar="FILE.toml", help="file of settings, as `name = value` lines; flags override it")


def _parser(f: Field[Any]) -> Callable[[str], Any]:
    """Makes a value of the text on the command line."""
    words, kind = f.metadata["words"], _kind(f)
    if f.metadata["metavar"] == "BYTES":
        return parse_bytes
    if not words:
        return kind

    def parse(text: str) -> Any:
        return words[text] if text in words else kind(text)

    parse.__name__ = kind.__name__  # argparse names it in its error
    return parse


def _help(f: Field[Any]) -> str:
    text = str(f.metadata["help"])
    if f.default is not MISSING and f.type is not bool and (f.metadata["shown"] or f.default not in (None, ())):
        text += f" (default: {f.metadata['shown'] or f.default})"
    return text.replace("%", "%%")


def read_values(arguments: Mapping[str, Any], settings: type) -> dict[str, Any]:
    """The values of `--config` and the flags, which override it. Raises UserError if a field without a default has none."""
    names = {f.name: f for f in fields(settings)}
    values = _read_config(arguments["config"], names) if arguments.get("config") is not None else {}
    values |= {name: value for name, value in arguments.items() if name in names}
    for name, f in names.items():
        if f.default is MISSING and name not in values:
            raise UserError(f"{flag(name)} is missing; set it as a flag or in --config")
        if name in values and _kind(f) is tuple:
            value = values[name]
            values[name] = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return values


def _read_config(path: str, names: Mapping[str, Field[Any]]) -> dict[str, Any]:
    return named_values(parse_toml(path), names, path)


def parse_toml(path: str) -> dict[str, Any]:
    """The tables and values of a TOML file. Raises UserError for any other file."""
    try:
        return tomllib.loads(storage.read_small(path).decode())
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, or of a number with too many digits
        raise UserError(f"{path}: not a TOML file: {error}") from error


def named_values(values: Mapping[str, Any], names: Mapping[str, Field[Any]], place: str) -> dict[str, Any]:
    """Values of a file by the names of their fields. Words and sizes become numbers, as on the command line.

    Raises UserError, which begins with the `place`, for an unknown name, and for one that is set twice.
    """
    named: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in names:
            near = difflib.get_close_matches(name, sorted(names), 1)
            hint = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(sorted(names))}"
            raise UserError(f"{place}: unknown setting {key!r}; {hint}")
        if name in named:
            raise UserError(f"{place}: {name} is set twice; - and _ are the same")
        named[name] = _plain(value, names[name], f"{place}: {name}")
    return named


def _plain(value: Any, f: Field[Any], place: str) -> Any:
    """A value of a file: a number for a word that means one, and for a size."""
    if isinstance(value, str) and value in f.metadata["words"]:
        return f.metadata["words"][value]
    if isinstance(value, str) and f.metadata["metavar"] == "BYTES":
        try:
            return parse_bytes(value)
        except argparse.ArgumentTypeError as error:
            raise UserError(f"{place}: {error}") from error
    return value

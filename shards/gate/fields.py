"""Values of a stranger's JSON, read by type and bounds. Each check raises ValueError that names the field and its value."""

import json
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

MAX_INTEGER = 2**63 - 1
_MAX_TEXT = 100_000  # characters


def parse(data: bytes) -> Any:
    """The value of a JSON text whose numbers are finite and fit into 64 bits. Raises ValueError."""
    try:
        return json.loads(data, parse_int=_integer, parse_float=_finite, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _integer(text: str) -> int:
    if len(text) > 20 or not -MAX_INTEGER <= int(text) <= MAX_INTEGER:
        raise ValueError(f"the number {text[:40]} is too large")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


@dataclass(frozen=True)
class Field:
    """A value and its path in the file."""

    value: Any
    path: str = ""

    def __getitem__(self, name: str) -> "Field":
        """The field of an object, which must be there."""
        fields = self.object()
        if name not in fields:
            raise ValueError(f"{self._below(name)} is missing")
        return Field(fields[name], self._below(name))

    def fields(self) -> "Iterator[tuple[str, Field]]":
        """Name and value of each field of an object."""
        for name, value in self.object().items():
            yield name, Field(value, self._below(name))

    def items(self, most: int = MAX_INTEGER) -> "list[Field]":
        """The values of a list."""
        if not isinstance(self.value, list) or len(self.value) > most:
            raise self._error("must be a list" + (f" of at most {most}" if most < MAX_INTEGER else ""))
        return [Field(value, f"{self.path}[{number}]") for number, value in enumerate(self.value)]

    def object(self) -> dict[str, Any]:
        """The fields of an object, unchecked."""
        if not isinstance(self.value, dict):
            raise self._error("must be an object")
        return self.value

    def integer(self, low: int = 0, high: int = MAX_INTEGER) -> int:
        """An integer from `low` to `high`."""
        if type(self.value) is not int or not low <= self.value <= high:
            raise self._error(f"must be an integer from {low} to {high}")
        return self.value

    def number(self, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        if type(self.value) not in (int, float) or not low <= self.value <= high:
            raise self._error(f"must be a number from {low:g} to {high:g}")
        return float(self.value)

    def text(self, pattern: str = r"(?s).*") -> str:
        """A text that the pattern matches as a whole."""
        if not isinstance(self.value, str) or len(self.value) > _MAX_TEXT or not re.fullmatch(pattern, self.value):
            raise self._error("must be a text" + ("" if pattern == r"(?s).*" else f" that matches {pattern}"))
        return self.value

    def one_of(self, choices: Collection[str]) -> str:
        """One of a few texts."""
        if not isinstance(self.value, str) or self.value not in choices:
            raise self._error(f"must be one of {', '.join(choices)}")
        return self.value

    def flag(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            raise self._error("must be true or false")
        return self.value

    def scalar(self) -> None:
        """A text, a number, true, false or null."""
        if isinstance(self.value, list | dict) or (isinstance(self.value, str) and len(self.value) > _MAX_TEXT):
            raise self._error("must be a text, a number, true, false or null")

    def require(self, is_met: bool, rule: str) -> None:
        """Raises ValueError unless a rule about this field is met."""
        if not is_met:
            raise self._error(rule)

    def _below(self, name: str) -> str:
        shown = name if re.fullmatch(r"[\w.-]{1,60}", name) else repr(name[:60])
        return f"{self.path}.{shown}" if self.path else shown

    def _error(self, rule: str) -> ValueError:
        shown = json.dumps(self.value, ensure_ascii=False, default=repr)
        return ValueError(f"{self.path or 'it'} is {shown if len(shown) <= 60 else shown[:57] + '...'}, {rule}")

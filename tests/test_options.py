import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from shards.command.options import add_arguments, check_ranges, check_types, option, parse_bytes, read_values
from shards.errors import UserError

Colour = Literal["red", "green", "blue"]


@dataclass(frozen=True)
class Options:
    name: str = option("a text", metavar="NAME")
    colour: Colour = option("a choice, 100 %", "green")
    count: int = option("a number", 3, metavar="N")
    rate: float | None = option("a number or none", None, metavar="P", shown="a rate of its own")
    parts: tuple[float, ...] = option("numbers", (), metavar="X")
    size: int = option("bytes", 4096, metavar="BYTES")
    loud: bool = option("a switch", False)

    def __post_init__(self) -> None:
        check_types(self)
        check_ranges(self, {"count": (1, 9)})


def parse(*words: str) -> Options:
    parser = argparse.ArgumentParser()
    add_arguments(parser, Options, {"count": "numbers"})
    return Options(**read_values(vars(parser.parse_args(words)), Options))


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('name = "file"\ncolour = "blue"\ncount = 4\nsize = "2MB"\nparts = [1, 2.5]\nloud = true\n')
    options = parse("--config", str(config), "--name", "flag", "--rate", "1")
    assert options == Options("flag", "blue", 4, 1.0, (1, 2.5), 2 << 20, True)
    assert parse("--name", "a") == Options("a")


def test_the_help_shows_choices_defaults_and_sections() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser, Options, {"count": "numbers"})
    text = " ".join(parser.format_help().split())
    for part in ("--colour {red,green,blue}", "a choice, 100 % (default: green)", "none (default: a rate of its own)"):
        assert part in text
    assert text.index("--colour {") < text.index("numbers: --count N") and "a switch (default" not in text


@pytest.mark.parametrize("value", ["yellow", "Red", "", None, 1])
def test_a_value_outside_its_choices_is_refused(value: Any) -> None:
    with pytest.raises(UserError, match=r"--colour is .*, must be one of red, green, blue"):
        Options("a", colour=value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": True}, "--count is True, must be of type int"),
        ({"count": 1.0}, "--count is 1.0, must be of type int"),
        ({"count": 0}, "--count is 0, must be from 1 to 9"),
        ({"rate": "1"}, "--rate is '1', must be of type float"),
        ({"parts": [1]}, "must be a list of numbers"),
        ({"parts": (1, "a")}, "must be a list of numbers"),
        ({"name": "a\0b"}, "a NUL is not allowed in a name"),
        ({"loud": 1}, "--loud is 1, must be of type bool"),
    ],
)
def test_values_of_another_type_or_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        Options(**{"name": "a"} | values)
    assert message in str(error.value)


def test_a_setting_without_a_default_must_be_set() -> None:
    with pytest.raises(UserError, match="--name is missing; set it as a flag or in --config"):
        parse()


@pytest.mark.parametrize(
    ("text", "expected"), [("64MB", 64 << 20), ("1.5GiB", 3 << 29), ("4096", 4096), ("2k", 2048), ("1 TB", 1 << 40)]
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected

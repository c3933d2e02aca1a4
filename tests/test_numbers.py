"""Numbers for people."""

import pytest

from shards.command.numbers import clock, short, size


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1234, "1.2 k"), (1_234_567, "1.2 M"), (5e9, "5.0 G"), (5e15, "5000.0 T")]
)
def test_counts(number: float, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 bytes"), (999, "999 bytes"), (12_200_000, "12.2 MB"), (3e12, "3.0 TB"), (5e15, "5000.0 TB")]
)
def test_sizes(num_bytes: float, text: str) -> None:
    assert size(num_bytes) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3723, "1:02:03")])
def test_times(seconds: float, text: str) -> None:
    assert clock(seconds) == text

"""What is said of sentences in the settings; `sentences` does it."""

from typing import NamedTuple


class Splitting(NamedTuple):
    """Where sentences end: at what the rules of a language say, at every line's end, or at every full stop."""

    rule: str  # language, line or fullstop
    language: str

"""The special tokens that a tokenizer puts around the segments of a sequence: BERT's `[CLS] A [SEP] B [SEP]`, and others'."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Template:
    """`prefix A between B suffix`, or `prefix A suffix` for one segment: ids of special tokens.

    `between_a` of the tokens between belong to segment A; the rest begin segment B.
    """

    prefix: tuple[int, ...]
    between: tuple[int, ...]
    suffix: tuple[int, ...]
    between_a: int = 0

    @property
    def num_special(self) -> int:
        """Special tokens of a sequence."""
        return len(self.prefix) + len(self.between) + len(self.suffix)

    def to_json(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return {
            "prefix": list(self.prefix),
            "between": list(self.between),
            "suffix": list(self.suffix),
            "between_a": self.between_a,
        }

    @staticmethod
    def of(tokenizer: Mapping[str, Any], paired: bool) -> "Template":
        """The template of a manifest's tokenizer for two segments or for one; BERT's where it does not say."""
        special, told = tokenizer["special_ids"], tokenizer.get("templates", {}).get("pair" if paired else "single")
        if told is None:
            cls, sep = (special["cls"],), (special["sep"],)
            return Template(cls, sep if paired else (), sep, 1 if paired else 0)
        sides = [tuple(int(number) for number in told[side]) for side in ("prefix", "between", "suffix")]
        return Template(sides[0], sides[1], sides[2], int(told["between_a"]))

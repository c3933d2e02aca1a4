"""The special tokens that a tokenizer puts around the segments of a sequence, such as BERT's `[CLS] A [SEP] B [SEP]`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Template:
    """`prefix A between B suffix`, or `prefix A suffix` for one segment: ids of special tokens.

    The first `between_a` tokens of `between` belong to segment A, the rest to segment B.
    """

    prefix: tuple[int, ...]
    between: tuple[int, ...]
    suffix: tuple[int, ...]
    between_a: int = 0

    @property
    def num_special(self) -> int:
        """The number of special tokens in a sequence."""
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
        """The template of a manifest's tokenizer: for two segments if `paired`, else for one."""
        template = tokenizer["templates"]["pair" if paired else "single"]
        prefix, between, suffix = (tuple(template[side]) for side in ("prefix", "between", "suffix"))
        return Template(prefix, between, suffix, template["between_a"])

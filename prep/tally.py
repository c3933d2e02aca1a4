"""What became of the tokens of the documents that a pair task reads.

Apart from the records, so that compiled loops do not depend on how records are written.
"""

from dataclasses import dataclass
from typing import NamedTuple


class Tally(NamedTuple):
    """Where the documents' tokens went (`made = placed + truncated + unpaired`), and what else was counted."""

    made: int
    placed: int  # in a sequence of their own document
    truncated: int  # cut off to fit
    unpaired: int  # in no sequence: of segments without a partner, or that the recipe does not take
    negatives: int  # tokens of other documents that were placed too, as random next segments
    redrawn: int  # random next segments that were rejected
    dropped: int  # pairs given up
    separators: int = 0  # between documents in one sequence
    repeated: int = 0  # tokens that were placed a second time, by --document-overlap


@dataclass
class Duplicates:
    """Copies of documents that were left out: how many, their bytes of text, and their tokens, a weight's copies included."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0

    def count(self, num_bytes: int, tokens: int) -> None:
        """Counts one copy. With 0 bytes it is one that a weight made: its tokens count, but it is no document of the corpus."""
        self.documents += num_bytes > 0
        self.bytes += num_bytes
        self.tokens += tokens

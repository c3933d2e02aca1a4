"""The input of a tokenize task: a unit of the corpus, the rules for its documents, and where their tokens go.

`TokenizeTasks` are those of a corpus, of which no more than a few are in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

from prep.corpus.documents import HARMLESS, Rule
from prep.plan import Unit, Units
from prep.records import UnitRecord
from prep.settings import Splitting
from prep.tokens.sources import source_url
from prep.tokens.store import Places
from shards import storage

TOKENIZE_STAGE = 1


@dataclass(frozen=True)
class TokenizeTask:
    """A unit of the corpus, what to do with its documents, and the token store that their tokens go to."""

    unit: Unit
    key: str  # of the unit: its file in the store is called so
    rule: Rule
    splitting: Splitting
    on_error: str
    tokenizer_url: str
    engine: str  # `reference`, or the fast tokenizer with its version
    store: str
    places: Places  # of documents in the store
    weights: tuple[float, ...]  # of each corpus; empty: all 1
    by_content: bool  # a document's key is its content hash, so copies of it have the same key

    @property
    def name(self) -> str:
        """For messages."""
        span, more = self.unit.spans[0], len(self.unit.spans) - 1
        return f"tokenizing {span.file.url} from {span.start}" + (f" and {more} more" if more else "")

    @property
    def record_url(self) -> str:
        """The place of the unit's record, which exists once the unit is done."""
        return storage.join(self.store, f"{self.key}.json")

    def files_of(self, record: UnitRecord) -> list[tuple[str, int]]:
        """The URL and the size in bytes of the file that the record names; none for a unit without a document."""
        return [(source_url(self.store, self.key), record.stored_bytes)] if record.stored_bytes else []

    def accepts(self, record: UnitRecord) -> bool:
        """Whether an earlier record is valid here: without `--on-error skip`, it must not have left out broken documents."""
        return self.on_error == "skip" or all(reason in HARMLESS for reason in record.dropped)


class TokenizeTasks(Sequence[TokenizeTask]):
    """Tokenize tasks of units, each made when it is asked for; a slice of them is another such sequence."""

    def __init__(self, model: TokenizeTask, units: Units, keys: Sequence[str], numbers: range, num_corpora: int) -> None:
        """`model` has all that the tasks have in common; `keys` are those of all units, `numbers` the units of these tasks."""
        self._model, self._units, self._keys, self._numbers = model, units, keys, numbers
        self.num_corpora = num_corpora

    @property
    def store(self) -> str:
        """The token store of all these tasks."""
        return self._model.store

    @property
    def keys(self) -> list[str]:
        """The keys of the units."""
        return [self._keys[number] for number in self._numbers]

    @property
    def bytes(self) -> int:
        """The bytes of the units as listed."""
        return int(self._units.bytes[self._numbers].sum())

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> TokenizeTask: ...
    @overload
    def __getitem__(self, index: slice) -> "TokenizeTasks": ...
    def __getitem__(self, index: int | slice) -> "TokenizeTask | TokenizeTasks":
        if isinstance(index, slice):
            return TokenizeTasks(self._model, self._units, self._keys, self._numbers[index], self.num_corpora)
        number = self._numbers[index]
        return replace(self._model, unit=self._units[number], key=self._keys[number])

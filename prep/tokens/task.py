"""The input of a tokenize task: a unit of the corpus, the rules for its documents, and where their tokens go."""

from dataclasses import dataclass

from prep.corpus.documents import HARMLESS, Rule
from prep.plan import Unit
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

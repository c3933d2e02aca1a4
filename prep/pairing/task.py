"""The input of a pair task: which documents it reads, and the recipe."""

from dataclasses import dataclass

from prep.pairing.recipes import Pairing
from prep.records import PairRecord
from prep.tokens.store import Places
from shards import storage
from shards.masking import Masking
from shards.template import Template

PAIR_STAGE = 2
# Raised when the same settings give other data.
RECIPE_VERSION = 2
# Approximate size of a shard's token; a constant, so that both formats cut their shards in the same places.
BYTES_PER_TOKEN = 2


@dataclass(frozen=True)
class Recipe:
    """How sequences become rows: the settings that the task needs."""

    seed: int
    pairing: Pairing
    separator: int | None  # between documents in one sequence; None: a sequence has one document
    overlap: int  # of the pieces of a long document, in tokens
    drop_duplicates: bool
    max_seq_len: int
    short_seq_prob: float
    pack: bool
    row_capacity: int
    masking: Masking | None
    template: Template
    vocab_size: int
    format: str
    shard_tokens: int


@dataclass(frozen=True)
class PairTask:
    """The documents with places from `first` to `last` and content hashes in [hash_from, hash_below), for one copy."""

    number: int
    split: str
    copy: int
    first: int
    last: int
    hash_from: int
    hash_below: int
    store: str
    sources: str  # the URL of the list of files in the store to read
    places: Places
    recipe: Recipe
    out: str
    records: str

    @property
    def name(self) -> str:
        """The name of the task in messages."""
        return f"pairing {self.split} partition {self.number}"

    @property
    def record_url(self) -> str:
        """Where the task's record is once it is done."""
        return storage.join(self.records, f"pair-{self.number:06d}.json")

    def shards_of(self, record: PairRecord) -> list[tuple[str, int]]:
        """The URL and the bytes of each shard that the record lists."""
        return [(storage.join(self.out, shard.path), shard.bytes) for shard in record.shards]

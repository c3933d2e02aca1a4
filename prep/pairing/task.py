"""The input of a pair task: which documents it reads, and the recipe."""

from dataclasses import dataclass

from prep.pairing.recipes import Pairing
from prep.records import PairRecord
from shards import storage
from shards.masking import Masking
from shards.template import Template

PAIR_STAGE = 2
# Raised when the same settings give other data.
RECIPE_VERSION = 1
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
    """Documents of buckets [first_bucket, last_bucket) with a content hash in [hash_from, hash_below), for one copy.

    It builds only those whose place in the global shuffle is in range number `key_range` of `num_key_ranges` equal ones.
    """

    number: int
    split: str
    copy: int
    first_bucket: int
    last_bucket: int
    hash_from: int
    hash_below: int
    key_range: int
    num_key_ranges: int
    store: str
    segments: tuple[int, ...]  # how many each unit has
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

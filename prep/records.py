"""The records that tasks leave when they are done, and the sum of them all, the ledger.

A record's file holds a digest of its content, so a damaged one is found and its task runs again.
"""

import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeVar

from prep.corpus.documents import Fault, InputFile
from prep.tally import Duplicates, Tally
from shards import storage
from shards.manifest import SPLITS, ShardInfo

SKETCH_SIZE = 1024
MAX_LISTED_FAULTS = 1000
HISTOGRAM_BINS = 40
# The fields of UnitRecord that are numbers to add up.
_SUMS = (
    *("documents", "bytes", "used_documents", "used_bytes", "sentences", "tokens", "unknown_tokens"),
    *("stored_documents", "stored_bytes"),
)


@dataclass
class UnitRecord:
    """What a unit held; units are summed with `add`.

    Bin b of a histogram counts lengths in [2**(b - 1), 2**b). The sketch holds the smallest content hashes, each with its
    number of documents. A hash among the smallest of all units is also among those of its own unit, so sums are exact.
    """

    documents: int = 0
    bytes: int = 0
    used_documents: int = 0
    used_bytes: int = 0
    sentences: int = 0
    tokens: int = 0
    unknown_tokens: int = 0
    stored_documents: int = 0  # in the token store, with the copies that weights make
    stored_bytes: int = 0  # of the unit's file there; 0: it has none
    index_bits: int = 0  # of that file
    dropped: dict[str, list[int]] = field(default_factory=dict)  # reason -> [documents, bytes]
    faults: list[dict[str, Any]] = field(default_factory=list)
    document_tokens: list[int] = field(default_factory=lambda: [0] * HISTOGRAM_BINS)
    sentence_tokens: list[int] = field(default_factory=lambda: [0] * HISTOGRAM_BINS)
    sketch: dict[int, int] = field(default_factory=dict)
    corpora: list[list[int]] = field(
        default_factory=list
    )  # per --corpus up to the last that is used: documents, their copies, bytes, tokens
    engines: dict[str, int] = field(default_factory=dict)  # what encoded, with its version -> units

    def leave_out(self, reason: str, num_bytes: int) -> None:
        """Counts a document that is not used."""
        self.documents += 1
        self.bytes += num_bytes
        count = self.dropped.setdefault(reason, [0, 0])
        count[0] += 1
        count[1] += num_bytes

    def drop(self, file: InputFile, fault: Fault) -> None:
        """Counts a fault in the place of a document, and lists it."""
        self.leave_out(fault.reason, fault.num_bytes)
        if len(self.faults) < MAX_LISTED_FAULTS:
            place = {"file": file.name, "position": fault.position}
            self.faults.append(place | {"reason": fault.reason, "detail": fault.detail[:200]})

    def see(self, hashes: Mapping[int, int]) -> None:
        """Takes content hashes, with their counts, into the sketch."""
        limit = max(self.sketch) if len(self.sketch) >= SKETCH_SIZE else None
        for value in hashes if limit is None else filter(limit.__ge__, hashes):
            self.sketch[value] = self.sketch.get(value, 0) + hashes[value]
        if len(self.sketch) > SKETCH_SIZE:
            self.sketch = {value: self.sketch[value] for value in heapq.nsmallest(SKETCH_SIZE, self.sketch)}

    def add(self, other: "UnitRecord") -> None:
        """Sums another unit into this one."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("document_tokens", "sentence_tokens"):
            setattr(self, name, _sum(getattr(self, name), getattr(other, name)))
        self.extend_corpora(len(other.corpora))
        for counts, more in zip(self.corpora, other.corpora, strict=False):
            counts[:] = _sum(counts, more)
        for reason, (documents, num_bytes) in other.dropped.items():
            count = self.dropped.setdefault(reason, [0, 0])
            count[0] += documents
            count[1] += num_bytes
        self.engines = dict(Counter(self.engines) + Counter(other.engines))
        self.faults = (self.faults + other.faults)[:MAX_LISTED_FAULTS]
        self.see(other.sketch)

    def extend_corpora(self, count: int) -> None:
        """Makes `corpora` have at least `count` entries."""
        self.corpora += [[0] * 4 for _ in range(count - len(self.corpora))]

    def publish(self, url: str) -> None:
        """Writes the record's file."""
        storage.publish(url, _with_digest(vars(self)))

    @staticmethod
    def load(url: str) -> "UnitRecord":
        """Reads the record's file. Raises ValueError if it is damaged."""
        return UnitRecord.from_json(_checked(storage.read_bytes(url)))

    @staticmethod
    def from_json(value: dict[str, Any]) -> "UnitRecord":
        """The record in a value of JSON."""
        return UnitRecord(**{**value, "sketch": {int(number): count for number, count in value["sketch"].items()}})


def _sum(left: Sequence[int], right: Sequence[int]) -> list[int]:
    """Item by item; an empty list is all zeros."""
    return [a + b for a, b in zip(left, right, strict=True)] if left and right else list(left or right)


@dataclass(frozen=True)
class TotalRecord:
    """The sum of all units of a corpus, and the digest of the list of their files."""

    total: UnitRecord
    sources: str

    def publish(self, url: str) -> None:
        """Writes the record's file."""
        storage.publish(url, _with_digest({"total": vars(self.total), "sources": self.sources}))

    @staticmethod
    def load(url: str) -> "TotalRecord":
        """Reads the record's file. Raises ValueError if it is damaged."""
        value = _checked(storage.read_bytes(url))
        return TotalRecord(UnitRecord.from_json(value["total"]), value["sources"])


@dataclass(frozen=True)
class MergeRecord:
    """What a merge task wrote: one file of the token store."""

    documents: int
    bytes: int
    index_bits: int

    def publish(self, url: str) -> None:
        """Writes the record's file."""
        storage.publish(url, _with_digest(vars(self)))

    @staticmethod
    def load(url: str) -> "MergeRecord":
        """Reads the record's file. Raises ValueError if it is damaged."""
        return MergeRecord(**_checked(storage.read_bytes(url)))


@dataclass(frozen=True)
class PairRecord:
    """What a pair task made."""

    split: str
    copy: int
    documents: int
    tally: Tally
    duplicates: Duplicates
    shards: tuple[ShardInfo, ...]

    def publish(self, url: str) -> None:
        """Writes the record's file."""
        shards = [shard.to_json() for shard in self.shards]
        value = {"split": self.split, "copy": self.copy, "documents": self.documents, "tally": self.tally._asdict()}
        storage.publish(url, _with_digest(value | {"duplicates": vars(self.duplicates), "shards": shards}))

    @staticmethod
    def load(url: str) -> "PairRecord":
        """Reads the record's file. Raises ValueError if it is damaged."""
        value = _checked(storage.read_bytes(url))
        shards = tuple(ShardInfo.from_json(shard) for shard in value["shards"])
        tally, duplicates = Tally(**value["tally"]), Duplicates(**value["duplicates"])
        return PairRecord(value["split"], value["copy"], value["documents"], tally, duplicates, shards)


# A record's text is that of its value, with one more field at the end: the sha256 of that text without this field.
_DIGEST, _END = b', "sha256": "', b'"}'
_DIGEST_BYTES = len(_DIGEST) + 64 + len(_END)


def _with_digest(value: Mapping[str, Any]) -> bytes:
    """The JSON text of the value, which is not empty, with a digest as its last field."""
    content = json.dumps(value).encode()
    return b"".join((content[:-1], _DIGEST, sha256(content).hexdigest().encode(), _END))


def _checked(data: bytes) -> dict[str, Any]:
    """The value in a text of `_with_digest`. Raises ValueError if one byte of it was changed."""
    content = data[:-_DIGEST_BYTES] + b"}"
    if data != b"".join((content[:-1], _DIGEST, sha256(content).hexdigest().encode(), _END)):
        raise ValueError("the record is damaged: its sha256 does not match")
    value: dict[str, Any] = json.loads(content)
    return value


Record = TypeVar("Record")


def finished(url: str, load: Callable[[str], Record], outputs: Callable[[Record], Iterable[tuple[str, int]]]) -> Record | None:
    """The record at `url` if it is intact and the files that it names are there with their sizes; else None."""
    try:
        record = load(url)
    except (storage.MissingError, ValueError, TypeError, KeyError):  # the last three: damaged, or of another release
        return None
    infos = ((storage.find(file), size) for file, size in outputs(record))
    return record if all(info and info.bytes == size for info, size in infos) else None


def make_ledger(total: UnitRecord, pairs: Sequence[PairRecord], weights: Sequence[float]) -> dict[str, Any]:
    """Where every byte of the corpus and every token went. `weights` has one entry per --corpus, or none."""
    tallies = {
        name: {
            "documents": sum(pair.documents for pair in pairs if pair.split == name),
            **{field: sum(getattr(pair.tally, field) for pair in pairs if pair.split == name) for field in Tally._fields},
        }
        for name in SPLITS
    }
    # Every pass over the corpus leaves out the same documents, so one pass counts them.
    first_pass = [pair.duplicates for pair in pairs if pair.copy == 0]
    copies = {name: sum(getattr(duplicates, name) for duplicates in first_pass) for name in ("documents", "bytes", "tokens")}
    dropped = dict(total.dropped)
    if copies["documents"]:
        dropped["duplicate"] = [copies["documents"], copies["bytes"]]
    reasons = sorted(dropped.items())
    return {
        "documents": {
            "in": total.documents,
            "used": total.used_documents - copies["documents"],
            "dropped": {reason: documents for reason, (documents, _) in reasons},
        },
        "bytes": {
            "in": total.bytes,
            "used": total.used_bytes - copies["bytes"],
            "dropped": {reason: num_bytes for reason, (_, num_bytes) in reasons},
        },
        "sentences": total.sentences,
        "tokens": total.tokens,
        "unknown_tokens": total.unknown_tokens,
        "pairs": tallies,
        "document_tokens_histogram": total.document_tokens,
        "sentence_tokens_histogram": total.sentence_tokens,
        "duplicates": {
            "sampled": sum(total.sketch.values()),
            "different": len(total.sketch),
            "dropped_tokens": copies["tokens"],
        },
        "corpora": _parts_of_corpora(total, weights),
        "faults": total.faults[:MAX_LISTED_FAULTS],
    }


def _parts_of_corpora(total: UnitRecord, weights: Sequence[float]) -> list[dict[str, Any]]:
    """What each --corpus added, in their order, and its fraction of all tokens."""
    names = ("documents", "copies", "bytes", "tokens")
    return [
        dict(zip(names, counts, strict=True))
        | {"weight": weights[index] if weights else 1.0, "share": counts[3] / max(1, total.tokens)}
        for index, counts in enumerate(total.corpora)
    ]

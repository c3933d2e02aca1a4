"""What each task came to, as it is published when the task is done; and the sum of it all, the ledger."""

import heapq
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from prep.corpus.documents import Fault, InputFile
from prep.tally import Duplicates, Tally
from shards import storage
from shards.manifest import SPLITS, ShardInfo

SKETCH_SIZE = 1024
MAX_LISTED_FAULTS = 1000
HISTOGRAM_BINS = 40


@dataclass
class UnitRecord:
    """What a unit came to; units are summed with `add`.

    Bin b of a histogram counts lengths in [2**(b - 1), 2**b). The sketch holds the smallest content hashes with the number of
    documents that have each; a hash among the smallest of all units is so in its own, so a sum of sketches is exact.
    """

    documents: int = 0
    bytes: int = 0
    used_documents: int = 0
    used_bytes: int = 0
    sentences: int = 0
    tokens: int = 0
    unknown_tokens: int = 0
    segments: list[int] = field(default_factory=list)  # bytes of each
    dropped: dict[str, list[int]] = field(default_factory=dict)  # reason -> [documents, bytes]
    faults: list[dict[str, Any]] = field(default_factory=list)
    bucket_documents: list[int] = field(default_factory=list)
    bucket_tokens: list[int] = field(default_factory=list)
    document_tokens: list[int] = field(default_factory=lambda: [0] * HISTOGRAM_BINS)
    sentence_tokens: list[int] = field(default_factory=lambda: [0] * HISTOGRAM_BINS)
    sketch: dict[int, int] = field(default_factory=dict)
    corpora: list[list[int]] = field(default_factory=list)  # of each --corpus: documents used, their copies, bytes, tokens

    def leave_out(self, reason: str, num_bytes: int) -> None:
        """Counts a document that is not used."""
        self.documents += 1
        self.bytes += num_bytes
        count = self.dropped.setdefault(reason, [0, 0])
        count[0] += 1
        count[1] += num_bytes

    def drop(self, file: InputFile, fault: Fault) -> None:
        """Counts what stands in the place of a document, and remembers it."""
        self.leave_out(fault.reason, fault.num_bytes)
        if len(self.faults) < MAX_LISTED_FAULTS:
            place = {"file": file.name, "position": fault.position}
            self.faults.append(place | {"reason": fault.reason, "detail": fault.detail[:200]})

    def see(self, hashes: Mapping[int, int]) -> None:
        """Takes content hashes, with their counts, into the sketch."""
        for value, count in hashes.items():
            self.sketch[value] = self.sketch.get(value, 0) + count
        if len(self.sketch) > SKETCH_SIZE:
            self.sketch = {value: self.sketch[value] for value in heapq.nsmallest(SKETCH_SIZE, self.sketch)}

    def add(self, other: "UnitRecord") -> None:
        """Sums another unit into this one."""
        for name in ("documents", "bytes", "used_documents", "used_bytes", "sentences", "tokens", "unknown_tokens"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.segments = self.segments + other.segments
        for name in ("bucket_documents", "bucket_tokens", "document_tokens", "sentence_tokens"):
            setattr(self, name, _sum(getattr(self, name), getattr(other, name)))
        if self.corpora and other.corpora:
            self.corpora = [_sum(mine, theirs) for mine, theirs in zip(self.corpora, other.corpora, strict=True)]
        else:
            self.corpora = self.corpora or [list(counts) for counts in other.corpora]
        for reason, (documents, num_bytes) in other.dropped.items():
            count = self.dropped.setdefault(reason, [0, 0])
            count[0] += documents
            count[1] += num_bytes
        self.faults = (self.faults + other.faults)[:MAX_LISTED_FAULTS]
        self.see(other.sketch)

    @staticmethod
    def load(url: str) -> "UnitRecord":
        """From its file."""
        value = json.loads(storage.read_bytes(url))
        return UnitRecord(**{**value, "sketch": {int(number): count for number, count in value["sketch"].items()}})


def _sum(mine: Sequence[int], theirs: Sequence[int]) -> list[int]:
    """Item by item; an empty list is all zeros."""
    return [a + b for a, b in zip(mine, theirs, strict=True)] if mine and theirs else list(mine or theirs)


@dataclass(frozen=True)
class PairRecord:
    """What a pair task made."""

    split: str
    copy: int
    documents: int
    tally: Tally
    duplicates: Duplicates
    shards: tuple[ShardInfo, ...]

    def to_json(self) -> bytes:
        """The record's file."""
        shards = [shard.to_json() for shard in self.shards]
        value = {"split": self.split, "copy": self.copy, "documents": self.documents, "tally": self.tally._asdict()}
        return json.dumps(value | {"duplicates": vars(self.duplicates), "shards": shards}).encode()

    @staticmethod
    def load(url: str) -> "PairRecord":
        """From its file."""
        value = json.loads(storage.read_bytes(url))
        shards = tuple(ShardInfo.from_json(shard) for shard in value["shards"])
        tally, duplicates = Tally(**value["tally"]), Duplicates(**value["duplicates"])
        return PairRecord(value["split"], value["copy"], value["documents"], tally, duplicates, shards)


Record = TypeVar("Record")


def finished(url: str, load: Callable[[str], Record], outputs: Callable[[Record], Iterable[tuple[str, int]]]) -> Record | None:
    """The record at `url`, when the files that it speaks of are all there with their sizes; None when there is work to do."""
    if not storage.find(url):
        return None
    try:
        record = load(url)
    except (ValueError, TypeError, KeyError):  # damaged
        return None
    found = ((storage.find(file), size) for file, size in outputs(record))
    return record if all(info and info.bytes == size for info, size in found) else None


def make_ledger(total: UnitRecord, pairs: Sequence[PairRecord], weights: Sequence[float]) -> dict[str, Any]:
    """Where every byte of the corpus and every token went; `weights` has one for each --corpus, or none."""
    tallies = {
        name: {
            "documents": sum(pair.documents for pair in pairs if pair.split == name),
            **{field: sum(getattr(pair.tally, field) for pair in pairs if pair.split == name) for field in Tally._fields},
        }
        for name in SPLITS
    }
    first = [pair.duplicates for pair in pairs if pair.copy == 0]
    gone = {name: sum(getattr(duplicates, name) for duplicates in first) for name in ("documents", "bytes", "tokens")}
    dropped = dict(total.dropped)
    if gone["documents"]:
        dropped["duplicate"] = [gone["documents"], gone["bytes"]]
    reasons = sorted(dropped.items())
    return {
        "documents": {
            "in": total.documents,
            "used": total.used_documents - gone["documents"],
            "dropped": {reason: documents for reason, (documents, _) in reasons},
        },
        "bytes": {
            "in": total.bytes,
            "used": total.used_bytes - gone["bytes"],
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
            "dropped_tokens": gone["tokens"],
        },
        "corpora": _parts_of_corpora(total, weights),
        "faults": total.faults[:MAX_LISTED_FAULTS],
    }


def _parts_of_corpora(total: UnitRecord, weights: Sequence[float]) -> list[dict[str, Any]]:
    """What each --corpus brought in, in their order, and its share of all tokens."""
    names = ("documents", "copies", "bytes", "tokens")
    return [
        dict(zip(names, counts, strict=True))
        | {"weight": weights[index] if weights else 1.0, "share": counts[3] / max(1, total.tokens)}
        for index, counts in enumerate(total.corpora)
    ]

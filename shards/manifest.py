"""`manifest.json`: what a data set holds, and the record that it is complete."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from shards.errors import UserError
from shards.gate.fields import Field, parse
from shards.gate.manifest import SPLITS as SPLITS
from shards.gate.manifest import TOKENIZER_FOLDER as TOKENIZER_FOLDER
from shards.gate.manifest import check_manifest
from shards.schema import FORMAT_VERSION

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class RowGroup:
    """Rows that can be decoded on their own: their number, and their byte range in the shard."""

    rows: int
    offset: int
    bytes: int


@dataclass(frozen=True)
class ShardInfo:
    """One shard: its path relative to the manifest, its contents, and the digests of its file and its columns."""

    path: str
    bytes: int
    sha256: str
    columns_sha256: str
    rows: int
    sequences: int
    tokens: int
    masked_tokens: int
    not_next: int
    forced_not_next: int
    max_row_tokens: int
    max_sequence_tokens: int
    max_sequences_per_row: int
    max_masked_per_row: int
    row_groups: tuple[RowGroup, ...]

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "ShardInfo":
        """The inverse of `to_json`. Other fields are ignored."""
        values = {f.name: value[f.name] for f in fields(ShardInfo)}
        return ShardInfo(**values | {"row_groups": tuple(RowGroup(*group) for group in value["row_groups"])})

    def to_json(self) -> dict[str, Any]:
        """Plain values, row groups as [rows, offset, bytes]."""
        value = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**value, "row_groups": [[group.rows, group.offset, group.bytes] for group in self.row_groups]}


_SUMS = ("rows", "sequences", "tokens", "masked_tokens", "not_next", "forced_not_next", "bytes")
_MAXIMA = ("max_row_tokens", "max_sequence_tokens", "max_sequences_per_row", "max_masked_per_row")


@dataclass(frozen=True)
class Split:
    """The shards of one split, in order, with their totals."""

    shards: tuple[ShardInfo, ...]

    def totals(self) -> dict[str, int]:
        """Sums and maxima over the shards; 0 if there are none."""
        sums = {name: sum(getattr(shard, name) for shard in self.shards) for name in _SUMS}
        return sums | {name: max((getattr(shard, name) for shard in self.shards), default=0) for name in _MAXIMA}


@dataclass(frozen=True)
class Manifest:
    """A data set: format, settings, tokenizer, splits and ledger. The fields are described in README.md."""

    settings: dict[str, Any]
    tokenizer: dict[str, Any]
    inputs: dict[str, Any]
    splits: dict[str, Split]
    ledger: dict[str, Any]
    made_with: dict[str, str]
    recipe_version: int
    format_version: int = FORMAT_VERSION

    @property
    def settings_fingerprint(self) -> str:
        """Digest of the recipe's version and every setting that can change the output."""
        return fingerprint({"recipe_version": self.recipe_version, "settings": self.settings})

    @property
    def data_fingerprint(self) -> str:
        """Digest of the decoded columns of all shards in order: the same in every format."""
        return fingerprint({name: [s.columns_sha256 for s in split.shards] for name, split in self.splits.items()})

    def to_json(self) -> bytes:
        """The file's bytes; `sha256` is the digest of everything else in it."""
        splits = {
            name: split.totals() | {"shards": [shard.to_json() for shard in split.shards]}
            for name, split in self.splits.items()
        }
        value = {
            "format_version": self.format_version,
            "recipe_version": self.recipe_version,
            "settings": self.settings,
            "settings_fingerprint": self.settings_fingerprint,
            "data_fingerprint": self.data_fingerprint,
            "tokenizer": self.tokenizer,
            "inputs": self.inputs,
            "ledger": self.ledger,
            "made_with": self.made_with,
            "splits": splits,
        }
        return json.dumps(value | {"sha256": fingerprint(value)}, indent=1).encode()

    @staticmethod
    def from_json(data: bytes, url: str) -> tuple["Manifest", list[str]]:
        """The manifest, and one line for each of its contradictions. `url` is for the messages.

        Raises UserError when it is of another format version, or does not pass the gate.
        """
        try:
            value = parse(data)
            version = Field(value)["format_version"].integer()
        except ValueError as error:
            raise UserError(f"{url}: not a manifest ({error}); rebuild the data set") from error
        if version != FORMAT_VERSION:
            remedy = "build it again, into another folder" if version < FORMAT_VERSION else "use the release that made it"
            raise UserError(f"{url}: format_version is {version}, this release reads {FORMAT_VERSION}; {remedy}")
        try:
            check_manifest(Field(value))
        except ValueError as error:
            raise UserError(f"{url}: {error}; rebuild the data set, or ask whoever made it") from error
        manifest = Manifest(
            **{f.name: value[f.name] for f in fields(Manifest) if f.name != "splits"},
            splits={
                name: Split(tuple(ShardInfo.from_json(shard) for shard in value["splits"][name]["shards"])) for name in SPLITS
            },
        )
        return manifest, list(_contradictions(value, manifest))


def _contradictions(value: dict[str, Any], manifest: Manifest) -> Iterable[str]:
    for name in ("settings_fingerprint", "data_fingerprint"):
        if value.get(name) != getattr(manifest, name):
            yield f"{name} is {value.get(name)}, the content gives {getattr(manifest, name)}"
    for name, split in manifest.splits.items():
        for total, number in split.totals().items():
            if value["splits"][name].get(total) != number:
                yield f"splits.{name}.{total} is {value['splits'][name].get(total)}, the shards give {number}"
    rest = {key: part for key, part in value.items() if key != "sha256"}
    if value.get("sha256") != fingerprint(rest):
        yield "the manifest was changed after it was written (its sha256 does not match)"


def fingerprint(value: Any) -> str:
    """sha256 of a plain value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`name: old -> new` for every key whose value differs."""
    names = sorted({*old, *new})
    return [f"{name}: {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)]

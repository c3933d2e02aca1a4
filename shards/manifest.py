"""`manifest.json`, and `shards.npz` if there are many shards: what a data set holds, and the record that it is complete."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from shards.errors import UserError
from shards.gate.fields import Field, parse
from shards.gate.manifest import SPLITS as SPLITS
from shards.gate.manifest import SUFFIXES, check_manifest
from shards.gate.manifest import TOKENIZER_FOLDER as TOKENIZER_FOLDER
from shards.gate.shards import Columns, check_columns, read_listed
from shards.schema import FORMAT_VERSION
from shards.shard_list import RowGroup as RowGroup
from shards.shard_list import ShardInfo as ShardInfo
from shards.shard_list import Shards as Shards
from shards.shard_list import decode_index, encode_index

MANIFEST_NAME = "manifest.json"
# The shards of a data set that has more than the manifest lists, for people to read.
INDEX_NAME = "shards.npz"
MOST_LISTED = 1000
# Reads the index, which has so many bytes.
ReadIndex = Callable[[int], bytes]


class Split:
    """The shards of one split, in order, with their totals."""

    def __init__(self, shards: Iterable[ShardInfo]) -> None:
        """`Shards` are taken as they are."""
        self.shards = shards if isinstance(shards, Shards) else Shards.of(shards)

    def totals(self) -> dict[str, int]:
        """Sums and maxima over the shards; 0 if there are none."""
        return self.shards.totals


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
        return fingerprint({name: split.shards.digests("columns_sha256") for name, split in self.splits.items()})

    def index(self) -> bytes | None:
        """The bytes of the index, or None if the shards are so few that the manifest lists them."""
        shards = {name: split.shards for name, split in self.splits.items()}
        return encode_index(shards) if sum(map(len, shards.values())) > MOST_LISTED else None

    def to_json(self) -> bytes:
        """The file's bytes; `sha256` is the digest of everything else in it. `index` has the rest of a large data set."""
        index = self.index()
        splits: dict[str, dict[str, Any]] = {name: {**split.totals()} for name, split in self.splits.items()}
        if index is None:
            splits = {
                name: total | {"shards": [s.to_json() for s in self.splits[name].shards]} for name, total in splits.items()
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
        if index is not None:
            value["index"] = {"bytes": len(index), "sha256": hashlib.sha256(index).hexdigest()}
        return json.dumps(value | {"sha256": fingerprint(value)}, indent=1).encode()

    @staticmethod
    def from_json(data: bytes, url: str, read_index: ReadIndex | None = None) -> tuple["Manifest", list[str]]:
        """The manifest, and one line for each of its contradictions. `url` is for the messages.

        `read_index` is called if the shards are not listed. Raises UserError when the manifest is of another format version,
        or does not pass the gate, and what `read_index` raises.
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
            bounds = check_manifest(Field(value))
            columns = _columns(value, read_index)
            for name in SPLITS:
                check_columns(columns[name], name, SUFFIXES[value["settings"]["format"]], *bounds)
        except ValueError as error:
            raise UserError(f"{url}: {error}; rebuild the data set, or ask whoever made it") from error
        manifest = Manifest(
            **{f.name: value[f.name] for f in fields(Manifest) if f.name != "splits"},
            splits={name: Split(Shards(columns[name])) for name in SPLITS},
        )
        return manifest, list(_contradictions(value, manifest))


def _columns(value: dict[str, Any], read_index: ReadIndex | None) -> dict[str, Columns]:
    """The columns of each split, from the manifest or its index. Raises ValueError."""
    if "index" not in value:
        return {name: read_listed(Field(value)["splits"][name]["shards"]) for name in SPLITS}
    if read_index is None:
        raise ValueError(f"its shards are in {INDEX_NAME}, beside it")
    data = read_index(value["index"]["bytes"])
    digest = hashlib.sha256(data).hexdigest()
    if digest != value["index"]["sha256"]:
        raise ValueError(f"the sha256 of {INDEX_NAME} is {digest}, must be {value['index']['sha256']}")
    try:
        return decode_index(data, SPLITS)
    except ValueError as error:
        raise ValueError(f"{INDEX_NAME}: {error}") from error


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

"""Data sets as an attacker makes them: changed, with every digest made to fit again."""

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from shards.formats import FORMATS
from shards.manifest import RowGroup, fingerprint
from shards.schema import Rows, columns_sha256

SUMS = ("rows", "sequences", "tokens", "masked_tokens", "not_next", "forced_not_next", "bytes")
MAXIMA = ("max_row_tokens", "max_sequence_tokens", "max_sequences_per_row", "max_masked_per_row")


def manifest_of(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text())


def seal(folder: Path, manifest: Any) -> None:
    """Writes a manifest with the digests and totals that fit, as far as it has what they are made of."""
    manifest.pop("sha256", None)
    try:
        manifest["settings_fingerprint"] = fingerprint({name: manifest[name] for name in ("recipe_version", "settings")})
        splits = manifest["splits"]
        columns = {name: [shard["columns_sha256"] for shard in split["shards"]] for name, split in splits.items()}
        manifest["data_fingerprint"] = fingerprint(columns)
        for split in splits.values():
            split |= {name: sum(shard[name] for shard in split["shards"]) for name in SUMS}
            split |= {name: max((shard[name] for shard in split["shards"]), default=0) for name in MAXIMA}
    except (KeyError, TypeError, AttributeError):
        pass
    (folder / "manifest.json").write_text(json.dumps(manifest | {"sha256": fingerprint(manifest)}))


def change_rows(folder: Path, change: Callable[[Rows], None]) -> None:
    """Changes copies of the arrays of the first train shard, and writes it again."""
    manifest = manifest_of(folder)
    shard, output = manifest["splits"]["train"]["shards"][0], FORMATS[manifest["settings"]["format"]]
    groups = [RowGroup(*group) for group in shard["row_groups"]]
    rows = output.read((folder / shard["path"]).read_bytes(), groups)
    rows = replace(rows, **{name: value.copy() for name, value in vars(rows).items() if value is not None})
    change(rows)
    data, groups = output.write(rows, groups[0].rows)
    shard["columns_sha256"] = columns_sha256(rows)
    put_shard(folder, manifest, bytes(data), [[group.rows, group.offset, group.bytes] for group in groups])


def put_shard(folder: Path, manifest: Any, data: bytes, groups: list[list[int]] | None = None) -> None:
    """Replaces the first train shard by other bytes, and the entry of its row groups if there are others."""
    shard = manifest["splits"]["train"]["shards"][0]
    (folder / shard["path"]).write_bytes(data)
    shard |= {"bytes": len(data), "sha256": sha256(data).hexdigest()}
    if groups:
        shard["row_groups"] = groups
    seal(folder, manifest)

"""Data sets of random rows with a ledger, for tests of what looks at a data set."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets_of_rows import INPUTS, write_data_set

from prep.inspect.figures import Overview, make_overview
from prep.inspect.sample import read_sample
from shards.dataset import publish_manifest
from shards.manifest import Manifest

LEDGER: dict[str, Any] = {
    "documents": {"in": 90, "used": 90, "dropped": {}},
    "bytes": {"in": 9000, "used": 9000, "dropped": {}},
    "sentences": 400,
    "tokens": 4000,
    "unknown_tokens": 4,
    "pairs": {
        name: {"documents": 45, "made": 2000, "placed": 1900, "truncated": 80, "unpaired": 20, "redrawn": 1, "dropped": 0}
        | {"negatives": 0, "separators": 0, "repeated": 0}
        for name in ("train", "eval")
    },
    "document_tokens_histogram": [0, 0, 0, 0, 30, 60, 0, 0],
    "sentence_tokens_histogram": [0, 0, 100, 300, 0, 0, 0, 0],
    "duplicates": {"sampled": 90, "different": 90, "dropped_tokens": 0},
    "corpora": [],
    "faults": [],
}


def write(folder: Path, ledger: dict[str, Any] | None = None, **options: Any) -> Manifest:
    """A data set of random rows with a ledger made by hand."""
    manifest = replace(
        write_data_set(folder, **options), ledger=LEDGER | (ledger or {}), inputs=INPUTS | {"files": 3, "bytes": 9000}
    )
    publish_manifest(str(folder), manifest)
    return manifest


def overview_of(folder: Path, manifest: Manifest) -> Overview:
    samples = {name: read_sample(str(folder), manifest, name, 0, {}) for name in manifest.splits}
    return make_overview(str(folder), manifest, samples, {})

"""The folder of a data set: claimed by one build, refused to another, committed by its manifest.

build.json     settings and inputs of the build that claimed the folder
tokenizer/     tokenizer.json and the files that other loaders need
train/ eval/   shards
README.md      the data set's card
_build/        records of the pair tasks that are done; removed by the commit
shards.npz     the shards of a data set that has more than 1,000
manifest.json  written last: the data set is complete
"""

import json
import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from prep.card import CARD_NAME, make_card
from prep.corpus.inputs import Inputs
from prep.pairing.task import RECIPE_VERSION
from prep.records import PairRecord, UnitRecord, make_ledger
from prep.tokens.tokenizer import PreparedTokenizer
from shards import storage
from shards.dataset import BUILD_NAME, LostIndexError, publish_manifest, read_manifest, sizes_of_files
from shards.errors import UserError
from shards.manifest import INDEX_NAME, MANIFEST_NAME, SPLITS, TOKENIZER_FOLDER, Manifest, Split, differences

RECORDS = "_build"
# The paths that a build writes before its manifest and may remove again: nothing else in the folder is touched.
_OURS = re.compile(r"_build/(lock|[0-9a-f]{32}/pair-[0-9]{6,}\.json)|(train|eval)/[0-9]{6,}-[0-9]{4,}(\.parquet|\.tar\.gz)")
_OUR_FOLDERS = re.compile(r"train|eval|_build(/[0-9a-f]{32})?")
# Files of which a dead build may have left a half-written one.
_WRITTEN = re.compile(
    rf"{_OURS.pattern}|{TOKENIZER_FOLDER}/[a-z_]+\.(json|txt|npy)|build\.json|manifest\.json|shards\.npz|README\.md"
)
_LISTED_INPUTS = 1000
_MADE_WITH = ("numpy", "pyarrow", "resiliparse", "sentencex", "tokenizers")


def check(out: str, recipe: dict[str, Any], inputs: Inputs) -> Manifest | None:
    """The manifest if this very build is finished, None if there is work to do. Raises UserError for any other content.

    An unfinished build may be resumed with mended inputs, or with another --on-error. A data set that lost a shard is
    unfinished again.
    """
    manifest_url = storage.join(out, MANIFEST_NAME)
    if storage.find(manifest_url) and lost_files(out) != [INDEX_NAME]:
        manifest, faults = read_manifest(out)
        if faults:
            raise UserError(f"{manifest_url}: {faults[0]}; run `prep verify {out}`, or choose another --out")
        _check_version(out, manifest.recipe_version)
        changes = differences(manifest.settings, recipe)
        _refuse(out, changes + _input_changes(manifest.inputs, summarize(inputs, recipe["corpus_weight"])))
        return None if lost_files(out) else manifest
    build_url = storage.join(out, BUILD_NAME)
    if storage.find(build_url):
        try:
            claim = json.loads(storage.read_bytes(build_url))
            _check_version(out, claim["recipe_version"])
            _refuse(out, differences(claim["settings"] | {"on_error": recipe["on_error"]}, recipe))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{build_url}: is damaged ({error!r}); remove the folder or choose another --out") from error
        return None
    others = [info.url for info in storage.list_files(out) if not _OURS.fullmatch(storage.relative(info.url, out))]
    if others:
        raise UserError(f"--out {out}: holds {others[0]}, which is not part of a data set; choose an empty or new folder")
    return None


def lost_files(out: str) -> list[str]:
    """The files of a finished data set that are gone or have another size, as paths in its folder; empty for any other folder.

    Their content is not read: `prep verify` does that.
    """
    if not storage.find(storage.join(out, MANIFEST_NAME)):
        return []
    try:
        manifest, _ = read_manifest(out)
    except LostIndexError:
        return [INDEX_NAME]
    sizes = sizes_of_files(out, (*SPLITS, TOKENIZER_FOLDER))
    lost = [path for split in manifest.splits.values() for path, _ in split.shards.lost(sizes)]
    return lost + [path for name in manifest.tokenizer["files"] if (path := f"{TOKENIZER_FOLDER}/{name}") not in sizes]


def _check_version(out: str, version: int) -> None:
    """Raises UserError if the data are of a release that gives other data for the same settings."""
    if version != RECIPE_VERSION:
        raise UserError(
            f"--out {out}: was built with recipe version {version}; this release has version {RECIPE_VERSION}, which gives "
            "other data; choose another --out, or remove this one"
        )


def _input_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    if old["sha256"] == new["sha256"]:
        return []
    before, after = ({entry["name"]: entry["bytes"] for entry in inputs["listed"]} for inputs in (old, new))
    changes = [f"{name} is new" for name in after if name not in before]
    changes += [f"{name} is gone" for name in before if name not in after]
    changes += [
        f"{name}: {before[name]} -> {after[name]} bytes" for name in after if before.get(name, after[name]) != after[name]
    ]
    changes = changes or ["other weights, or other files beyond those listed"]
    return [f"inputs: {', '.join(changes[:3])}{', ...' if len(changes) > 3 else ''}"]


def _refuse(out: str, changes: list[str]) -> None:
    if changes:
        raise UserError(
            f"--out {out}: was built with other settings ({'; '.join(changes)}); choose another --out, or remove this one"
        )


def touched(out: str, inputs: Inputs) -> bool:
    """Whether the inputs were written again after the build of the finished data set began, or are copies of them."""
    build_url = storage.join(out, BUILD_NAME)
    try:
        claim = json.loads(storage.read_bytes(build_url)) if storage.find(build_url) else {}
        return bool(claim["inputs_versions"] != _versions(inputs))
    except (ValueError, KeyError, TypeError):
        return True


def _versions(inputs: Inputs) -> str:
    return _sha256(file.version for file in inputs)


def summarize(inputs: Inputs, weights: Sequence[float]) -> dict[str, Any]:
    """The inputs as the manifest describes them: names, sizes and weights, never places or times."""
    return {
        "files": len(inputs),
        "bytes": int(inputs.bytes.sum()),
        "sha256": _sha256(file.identity(weights) for file in inputs),
        "listed": [file.identity(weights) for file in inputs[:_LISTED_INPUTS]],
    }


def _sha256(values: Iterable[Any]) -> str:
    """A hash of values, one JSON text per line, none of which is kept."""
    digest = sha256()
    for value in values:
        digest.update(json.dumps(value, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


@contextmanager
def claimed(out: str, recipe: dict[str, Any], inputs: Inputs, shared: bool = False) -> Iterator[Manifest | None]:
    """Marks the folder as this build's and, on a disk, keeps other builds away from it.

    `shared`: take a shared lock. Other processes that run a stage may enter; a whole build or a commit may not.
    Gives the manifest if another process finished the same data set meanwhile.
    """
    with storage.locked(out, f"{RECORDS}/lock", "build", shared):
        if not shared:
            storage.tidy(out, _WRITTEN)
        finished = check(out, recipe, inputs)  # again, now that no other process can begin or finish
        if not finished:
            claim = {"recipe_version": RECIPE_VERSION, "settings": recipe, "inputs": summarize(inputs, recipe["corpus_weight"])}
            claim["inputs_versions"] = _versions(inputs)
            url, data = storage.join(out, BUILD_NAME), json.dumps(claim, indent=1).encode()
            storage.publish(url, data, first=True)
            check(out, recipe, inputs)  # if two begin at once, the first one has it
            storage.publish(url, data)
        yield finished


def _made_with(total: UnitRecord) -> dict[str, str]:
    """The versions of the libraries that made the data. `tokenizing_engine` may name several engines."""
    versions = {name: version(name) for name in _MADE_WITH if find_spec(name)}
    return {"python": platform.python_version(), "tokenizing_engine": ", ".join(sorted(total.engines))} | versions


def commit(
    out: str,
    recipe: dict[str, Any],
    inputs: Inputs,
    tokenizer: PreparedTokenizer,
    total: UnitRecord,
    pairs: Sequence[PairRecord],
) -> Manifest:
    """Saves the tokenizer, removes shards of earlier tries, and writes the card and the manifest.

    `total` is the sum of all units, `pairs` the records of all pair tasks in order.
    """
    tokenizer = tokenizer.for_length(recipe["max_seq_len"])
    tokenizer.save(storage.join(out, TOKENIZER_FOLDER))
    manifest = Manifest(
        settings=recipe,
        tokenizer=tokenizer.describe(),
        inputs=summarize(inputs, recipe["corpus_weight"]),
        splits={name: Split(shard for pair in pairs if pair.split == name for shard in pair.shards) for name in SPLITS},
        ledger=make_ledger(total, pairs, recipe["corpus_weight"]),
        made_with=_made_with(total),
        recipe_version=RECIPE_VERSION,
    )
    if not manifest.splits["train"].shards:
        raise UserError(
            f"the corpus gives no sequence with --pairing {recipe['pairing']}; check that its documents are not copies of each "
            "other, or of one sentence each"
        )
    _remove_ours(out, SPLITS, kept={path for split in manifest.splits.values() for path in split.shards.paths()})
    storage.publish(storage.join(out, CARD_NAME), make_card(manifest))
    folders = [storage.join(out, name) for name in (*SPLITS, TOKENIZER_FOLDER)]
    storage.flush_names(*folders, out)  # after a power cut, too, the manifest must not be there without them
    publish_manifest(out, manifest)
    tidy(out)
    return manifest


def tidy(out: str) -> None:
    """Removes the records of a build that is finished."""
    _remove_ours(out, (RECORDS,), kept=set())


def _remove_ours(out: str, folders: Sequence[str], kept: set[str]) -> None:
    """Removes the files in these folders that a build wrote, except the paths `kept`."""
    for folder in (storage.join(out, name) for name in folders):
        for info in storage.list_files(folder):
            path = storage.relative(info.url, out)
            if _OURS.fullmatch(path) and path not in kept:
                storage.remove(info.url)
    storage.tidy(out, _WRITTEN, _OUR_FOLDERS)

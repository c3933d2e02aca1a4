"""A finished data set: its manifest, read and checked before anything else is, and its shards, read whole and checked."""

import io
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from shards import storage
from shards.errors import UserError
from shards.manifest import MANIFEST_NAME, Manifest, ShardInfo
from shards.masking import Masking

# The settings of a build, written at its start.
BUILD_NAME = "build.json"
# A flag for each token id (see `mask_units`), in the tokenizer's folder.
WORDS_NAME = "word_starts.npy"
_BLOCK_BYTES = 4 << 20


class AlteredError(UserError):
    """A shard is not the one that the manifest names."""


def open_data_set(url: str) -> Manifest:
    """The manifest of the data set at `url`. Raises UserError where there is none, or one that contradicts itself."""
    manifest_url = storage.join(url, MANIFEST_NAME)
    if not storage.find(manifest_url):
        raise not_finished(url)
    manifest, faults = Manifest.from_json(storage.read_bytes(manifest_url), manifest_url)
    if faults:
        raise UserError(f"{manifest_url}: {faults[0]}; `python -m prep verify {url}` lists everything that is wrong")
    return manifest


def not_finished(url: str) -> UserError:
    """The error for a reader of a data set that is not there, or not finished."""
    if storage.find(storage.join(url, BUILD_NAME)):
        return UserError(f"{url}: not a finished data set: its build was stopped; run the same build command again")
    return UserError(f"{url}: not a finished data set (it has no {MANIFEST_NAME}); build it, or check the path")


def masking_of(url: str, manifest: Manifest) -> Masking:
    """How the data set at `url` is masked, or is to be masked when it is read.

    Raises UserError where its table of word starts is damaged.
    """
    settings, tokenizer = manifest.settings, manifest.tokenizer
    special, unit = tokenizer["special_ids"], settings["mask_unit"]
    return Masking(
        settings["mask_prob"],
        tokenizer["vocab_size"],
        tuple(special.values()),
        special["mask"],
        unit,
        settings["mask_replace_prob"],
        settings["random_replace_prob"],
        _word_flags(url, manifest) if unit != "token" else None,
    )


def _word_flags(url: str, manifest: Manifest) -> npt.NDArray[np.uint8]:
    """[vocab_size] the flags of `mask_units`."""
    table = storage.join(url, manifest.tokenizer["folder"], WORDS_NAME)
    try:
        flags = np.load(io.BytesIO(storage.read_bytes(table)), allow_pickle=False)
        fits = flags.dtype == np.uint8 and flags.shape == (manifest.tokenizer["vocab_size"],)
    except ValueError:
        fits = False
    if not fits:
        raise UserError(f"{table}: damaged; restore it or build the data set again")
    return flags  # type: ignore[no-any-return]  # numpy does not know


def fetch_whole(url: str, shard: ShardInfo) -> bytes:
    """The bytes of the shard at `url`, in one request. Raises StorageError, and AlteredError."""
    data = storage.read_bytes(url)
    _check(url, shard, sha256(data).hexdigest())
    return data


def check_whole(url: str, shard: ShardInfo) -> None:
    """Reads a shard once and keeps nothing of it. Raises StorageError, and AlteredError."""
    digest = sha256()
    with storage.open_read(url) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    _check(url, shard, digest.hexdigest())


def _check(url: str, shard: ShardInfo, digest: str) -> None:
    if digest != shard.sha256:
        raise AlteredError(
            f"{url}: its sha256 is {digest}, the manifest says {shard.sha256}: it was changed or damaged; "
            "build the data set again or restore that file"
        )

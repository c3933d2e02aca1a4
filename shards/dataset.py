"""A finished data set: its manifest, read and checked before anything else is."""

import io

import numpy as np

from shards import storage
from shards.errors import UserError
from shards.manifest import MANIFEST_NAME, Manifest
from shards.masking import Masking

BUILD_NAME = "build.json"
"""What a build was asked for; there from its first moment on."""
WORDS_NAME = "word_starts.npy"
"""In the tokenizer's folder: a flag for each id, see `mask_units`."""


def open_data_set(url: str) -> Manifest:
    """The manifest of the data set at `url`. Raises UserError where there is none, or one that contradicts itself."""
    manifest_url = storage.join(url, MANIFEST_NAME)
    if not storage.find(manifest_url):
        raise not_finished(url)
    manifest, faults = Manifest.from_json(storage.read_bytes(manifest_url), manifest_url)
    if faults:
        raise UserError(f"{manifest_url}: {faults[0]}; `python -m prep verify {url}` says all that is wrong")
    return manifest


def not_finished(url: str) -> UserError:
    """For who wants to read a data set where there is none."""
    if storage.find(storage.join(url, BUILD_NAME)):
        return UserError(f"{url}: is no finished data set: its build was stopped; run the same build command again")
    return UserError(f"{url}: is no finished data set (it has no {MANIFEST_NAME}); build it, or check the path")


def masking_of(url: str, manifest: Manifest) -> Masking:
    """How the data set at `url` is masked, or is to be when read. Raises UserError where its word table is damaged."""
    settings, tokenizer = manifest.settings, manifest.tokenizer
    special, unit = tokenizer["special_ids"], settings.get("mask_unit", "token")
    flags = None
    if unit != "token":
        table = storage.join(url, tokenizer["folder"], WORDS_NAME)
        try:
            flags = np.load(io.BytesIO(storage.read_bytes(table)), allow_pickle=False)
            fits = flags.dtype == np.uint8 and flags.shape == (tokenizer["vocab_size"],)
        except ValueError:
            fits = False
        if not fits:
            raise UserError(f"{table}: damaged; restore it or build the data set again")
    return Masking(
        settings["mask_prob"],
        tokenizer["vocab_size"],
        tuple(special.values()),
        special["mask"],
        unit,
        settings.get("mask_replace_prob", 0.8),
        settings.get("random_replace_prob", 0.1),
        flags,
    )

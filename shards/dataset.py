"""A finished data set: its manifest, read and checked before anything else is."""

from shards import storage
from shards.errors import UserError
from shards.manifest import MANIFEST_NAME, Manifest

BUILD_NAME = "build.json"
"""What a build was asked for; there from its first moment on."""


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

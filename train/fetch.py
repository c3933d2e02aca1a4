"""Whole shards from storage, checked against the manifest."""

from hashlib import sha256

from shards import storage
from shards.errors import UserError
from shards.manifest import ShardInfo

_BLOCK_BYTES = 4 << 20


class AlteredError(UserError):
    """A shard is not the one that the manifest names."""


def fetch_whole(url: str, shard: ShardInfo) -> bytes:
    """The bytes of the shard at `url`, in one request. Raises StorageError, and AlteredError."""
    data = storage.read_bytes(url)
    _check(url, shard, sha256(data).hexdigest())
    return data


def check_whole(url: str, shard: ShardInfo) -> None:
    """Reads a shard once, and keeps nothing of it. Raises StorageError, and AlteredError."""
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

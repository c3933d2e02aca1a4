"""A finished data set: its manifest, opened first, and its shards, read whole or by row group. All through the gate."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from shards import storage
from shards.errors import UserError
from shards.formats import FORMATS
from shards.gate.manifest import MAX_MANIFEST_BYTES, SINGLE_SEGMENT
from shards.gate.rows import Limits, check_rows
from shards.manifest import INDEX_NAME, MANIFEST_NAME, Manifest, ShardInfo
from shards.masking import Masking
from shards.memory import require_memory
from shards.npz import decode_npy
from shards.schema import COLUMNS, MASKED_COLUMNS, Rows
from shards.tokenizer_check import expand_runs

# The settings of a build, written at its start.
BUILD_NAME = "build.json"
# A flag for each token id (see `mask_units`), in the tokenizer's folder.
WORDS_NAME = "word_starts.npy"
_BLOCK_BYTES = 4 << 20
_PARSED_BYTES = 12  # memory per byte of a manifest: most are numbers in small lists
_COPIES_OF_INDEX = 4  # while it is read: its bytes, its columns, and what the checks and the order of a run take
_NPY_OVERHEAD_BYTES = 1024
# Fills a buffer with the bytes of a shard from `start`.
Ranges = Callable[[int, memoryview], None]


class LostIndexError(UserError):
    """The index of a data set's shards is missing, or has another size than the manifest says."""


class AlteredError(UserError):
    """A shard is not the one that the manifest names."""


def open_data_set(url: str) -> Manifest:
    """The manifest of the data set at `url`. Raises UserError where there is none, or one that contradicts itself."""
    manifest, faults = read_manifest(url)
    if faults:
        place = storage.join(url, MANIFEST_NAME)
        raise UserError(f"{place}: {faults[0]}; `python -m prep verify {url}` lists everything that is wrong")
    return manifest


def read_manifest(url: str) -> tuple[Manifest, list[str]]:
    """The manifest of the data set at `url`, and what in it contradicts itself. Raises UserError as `open_data_set`."""
    place = storage.join(url, MANIFEST_NAME)
    info = storage.find(place)
    if not info:
        raise not_finished(url)
    if info.bytes > MAX_MANIFEST_BYTES:
        raise UserError(f"{place}: has {info.bytes} bytes, a manifest has at most {MAX_MANIFEST_BYTES}; ask whoever made it")
    require_memory(_PARSED_BYTES * info.bytes, f"{place}: reading it", "use a machine with more memory")
    return Manifest.from_json(storage.read_bytes(place), place, partial(_read_index, url))


def _read_index(url: str, num_bytes: int) -> bytes:
    place = storage.join(url, INDEX_NAME)
    info = storage.find(place)
    if info is None or info.bytes != num_bytes:
        actual = f"has {info.bytes} bytes" if info else "is missing"
        raise LostIndexError(f"{place}: {actual}, the manifest says {num_bytes}; restore it or build the data set again")
    require_memory(_COPIES_OF_INDEX * num_bytes, f"{place}: reading it", "use a machine with more memory")
    return storage.read_bytes(place)


def publish_manifest(url: str, manifest: Manifest) -> None:
    """Completes the data set at `url`: writes its index of shards, if it needs one, and then its manifest."""
    place, index = storage.join(url, INDEX_NAME), manifest.index()
    if index is not None:
        storage.remove(storage.join(url, MANIFEST_NAME))  # of a data set that lost a file: it must not name another index
        storage.publish(place, index)
        storage.flush_names(url)  # after a power cut, too, the manifest must not be there without it
    elif storage.find(place):
        storage.remove(place)
    storage.publish(storage.join(url, MANIFEST_NAME), manifest.to_json())
    storage.flush_names(url)


def sizes_of_files(url: str, folders: Iterable[str]) -> dict[str, int]:
    """The bytes of every file in these folders of the data set at `url`, by its path in the data set."""
    sizes, prefix = dict[str, int](), ""
    for info in (info for name in folders for info in storage.list_files(storage.join(url, name))):
        if not prefix or not info.url.startswith(prefix):  # the same for all: it costs more than the listing
            prefix = info.url.removesuffix(storage.relative(info.url, url))
        sizes[info.url.removeprefix(prefix)] = info.bytes
    return sizes


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
        (*special.values(), *expand_runs(tokenizer["unused_ids"])),  # neither is ever inserted
        special["mask"],
        unit,
        settings["mask_replace_prob"],
        settings["random_replace_prob"],
        _word_flags(url, manifest) if unit != "token" else None,
    )


def _word_flags(url: str, manifest: Manifest) -> npt.NDArray[np.uint8]:
    """[vocab_size] the flags of `mask_units`."""
    table = storage.join(url, manifest.tokenizer["folder"], WORDS_NAME)
    size = manifest.tokenizer["vocab_size"]
    info = storage.find(table)
    if info is None or info.bytes > size + _NPY_OVERHEAD_BYTES:
        raise UserError(f"{table}: missing or too large; restore it or build the data set again")
    try:
        flags = decode_npy(storage.read_bytes(table))
    except ValueError as error:
        raise UserError(f"{table}: damaged ({error}); restore it or build the data set again") from error
    if flags.dtype != np.uint8 or flags.shape != (size,):
        raise UserError(f"{table}: does not have a byte for each of {size} ids; restore it or build the data set again")
    return flags.astype(np.uint8)


def limits_of(manifest: Manifest, split: str, shard: ShardInfo) -> Limits:
    """What the manifest says of the rows of a shard at most."""
    settings = manifest.settings
    absent = {"next_sentence_label"} if settings["pairing"] in SINGLE_SEGMENT else set()
    if settings["masking"] == "dynamic" and split != "eval":
        absent |= set(MASKED_COLUMNS)
    return Limits(
        vocab_size=manifest.tokenizer["vocab_size"],
        sequence_tokens=shard.max_sequence_tokens,
        row_tokens=shard.max_row_tokens,
        row_sequences=shard.max_sequences_per_row,
        row_masked=shard.max_masked_per_row,
        tokens=shard.tokens,
        sequences=shard.sequences,
        masked=shard.masked_tokens,
        columns=frozenset(COLUMNS) - absent,
    )


def decode(
    manifest: Manifest, split: str, shard: ShardInfo, data: memoryview | bytes, groups: Sequence[int] | None = None
) -> Rows:
    """Rows of a shard from its bytes, through the gate: all of them, or those of some row groups.

    Raises ValueError or OSError when the shard is damaged, or is not what the manifest says.
    """
    limits = limits_of(manifest, split, shard)
    rows = FORMATS[manifest.settings["format"]].read(data, shard.row_groups, groups, limits)
    check_rows(rows, limits)
    return rows


def read_part(read: Ranges, shard: ShardInfo, group: int) -> memoryview:
    """A shard's bytes with only one row group and the part after the last one read. The rest is never touched memory."""
    try:
        buffer: Any = np.zeros(shard.bytes, np.uint8)
    except MemoryError as error:
        raise OSError(f"the machine grants no {shard.bytes} bytes of memory") from error
    data = memoryview(buffer)
    part, last = shard.row_groups[group], shard.row_groups[-1]
    footer = last.offset + last.bytes
    for start, length in ((part.offset, part.bytes), (footer, shard.bytes - footer)):
        read(start, data[start : start + length])
    return data


def read_group(url: str, manifest: Manifest, split: str, shard: ShardInfo, group: int) -> Rows:
    """The rows of one row group, read by its range. Raises UserError that names the shard."""
    place = storage.join(url, shard.path)
    info = storage.find(place)
    if info is None or info.bytes != shard.bytes:
        actual = f"has {info.bytes} bytes" if info else "is missing"
        raise UserError(f"{place}: {actual}, the manifest says {shard.bytes}; run `prep verify {url}`")
    try:
        return decode(manifest, split, shard, read_part(partial(storage.read_into, place), shard, group), [group])
    except (ValueError, OSError) as error:
        raise UserError(f"{place}: row group {group} cannot be decoded ({error}); run `prep verify {url}`") from error


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

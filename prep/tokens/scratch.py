"""The scratch folder: what builds keep there for later builds, and its removal.

tokenizer-KEY/   an existing tokenizer, where workers load it from
vocabulary-KEY/  a trained tokenizer
tokens-KEY/      a token store, for every corpus of the same rules:
    KEY.tokens, KEY.json          the tokens of a unit, and its record
    total-KEY.json                the sum of the records of a corpus
    merge-KEY-G-R-N.tokens .json  tokens of some units in a range of places, and the record of their merging
    sources-DIGEST.bin            the list of the files that tasks read
    unit-N-N.tokens, unit-N.json  of releases with recipe version 1; builds no longer use them
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from shards import storage
from shards.command.numbers import size
from shards.errors import UserError

_LOCK = ".prep-lock"
# The paths that builds make below the scratch folder: nothing else there is touched.
_FILES = re.compile(
    r"(vocabulary|tokenizer)-[0-9a-f]{32}/[a-z_]+\.(json|txt|npy)"
    r"|tokens-[0-9a-f]{32}/((merge-)?[0-9a-f]{32}(-[0-9]+){0,3}\.(tokens|json)|total-[0-9a-f]{32}\.json|sources-[0-9a-f]{32}\.bin"
    r"|unit-[0-9]{6,}(-[0-9]{4,}\.tokens|\.json))"
)
_FOLDERS = re.compile(r"\.|(vocabulary|tokenizer|tokens)-[0-9a-f]{32}")


@contextmanager
def in_use(scratch: str) -> Iterator[None]:
    """Keeps `prep clean` out while a build works with the folder, and removes half-written files of builds that died."""
    with storage.locked(scratch, _LOCK, "`prep clean`", shared=True):
        storage.tidy(scratch, _FILES)
        yield


def clean(scratch: str) -> str:
    """Removes what builds keep in a scratch folder, and nothing else. Returns a line that tells what was removed.

    Raises UserError if there is nothing of a build, or a build uses the folder.
    """
    kept = [info for info in storage.list_files(scratch) if _FILES.fullmatch(storage.relative(info.url, scratch))]
    if not kept:
        raise UserError(f"--scratch {scratch}: holds nothing of a build; check the path")
    with storage.locked(scratch, _LOCK, "build"):
        for info in kept:
            storage.remove(info.url)
        storage.remove(storage.join(scratch, _LOCK))
        storage.tidy(scratch, _FILES, _FOLDERS)
    return f"removed {len(kept):,} files, {size(sum(info.bytes for info in kept))}, from {scratch}"

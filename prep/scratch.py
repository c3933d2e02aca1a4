"""The scratch folder: what builds keep there for later builds, and its removal.

tokenizer-KEY/   an existing tokenizer, where workers load it from
vocabulary-KEY/  a trained tokenizer
tokens-KEY/      a token store: unit-000000-0000.tokens, unit-000000.json ...
"""

import re

from shards import storage
from shards.command.console import size
from shards.errors import UserError

_KEPT = re.compile(
    r"(vocabulary|tokenizer)-[0-9a-f]{32}(\.json|/[a-z_]+\.(json|txt|npy))"
    r"|tokens-[0-9a-f]{32}/unit-[0-9]{6,}(-[0-9]{4,}\.tokens|\.json)"
)


def clean(scratch: str) -> str:
    """Removes what builds keep in a scratch folder, and nothing else. Returns a line that says what was removed."""
    storage.tidy(scratch)
    ours = [info for info in storage.list_files(scratch) if _KEPT.fullmatch(storage.relative(info.url, scratch))]
    if not ours:
        raise UserError(f"--scratch {scratch}: holds nothing of a build; check the path")
    for info in ours:
        storage.remove(info.url)
    storage.tidy(scratch, empty_folders=True)
    return f"removed {len(ours):,} files, {size(sum(info.bytes for info in ours))}, from {scratch}"

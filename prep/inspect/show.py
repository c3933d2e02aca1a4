"""`prep show`: sequences of a data set as text."""

import numpy as np

from prep.inspect.passages import LEGEND, passage, token_texts
from prep.tokens.tokenizer import load_prepared
from shards import storage
from shards.dataset import open_data_set, read_group
from shards.errors import UserError
from shards.randomness import Purpose, address, below
from shards.report.terminal import print_passage, styled, terminal


def show(url: str, split: str, count: int, seed: int) -> None:
    """Prints `count` sequences of a split, chosen by seed. Raises UserError for a missing data set or an empty split."""
    if count < 1 or not 0 <= seed < 2**63:
        raise UserError(f"-n is {count} and --seed is {seed}; must be at least 1 and from 0 to 2**63 - 1")
    manifest = open_data_set(url)
    shards = manifest.splits[split].shards
    if not shards:
        raise UserError(f"{url}: the split {split} is empty")
    texts = token_texts(load_prepared(storage.join(url, manifest.tokenizer["folder"])))
    shard = shards[int(below(address(seed, Purpose.SHOW, 0), np.uint64(len(shards))))]
    rows = read_group(url, manifest, split, shard, 0)
    keys = address(seed, Purpose.SHOW, 1, np.arange(len(rows.sequence_lengths), dtype=np.uint64))
    console = terminal()
    console.print(styled(LEGEND))
    for sequence in np.argsort(keys, kind="stable")[:count]:
        console.print()
        print_passage(console, passage(rows, int(sequence), texts, manifest, f"{split}, {shard.path}", 0))

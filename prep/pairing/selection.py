"""The token store -> the documents of one pair task."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from prep.pairing.task import PairTask
from prep.tally import Duplicates
from prep.tokens.store import Documents, empty_documents, join_documents, read_buckets, segment_url
from shards.randomness import Purpose, address
from shards.schema import token_dtype


def read_documents(task: PairTask) -> tuple[Documents, Duplicates]:
    """The task's documents, in the order of the units. With `drop_duplicates`, only the first of those with the same key."""
    id_type = token_dtype(task.recipe.vocab_size)
    blocks = [empty_documents(id_type)]
    duplicates = Duplicates()
    seen: set[int] = set()
    urls = [segment_url(task.store, unit, segment) for unit, count in enumerate(task.segments) for segment in range(count)]
    for block in read_buckets(urls, task.first_bucket, task.last_bucket, id_type):
        chosen = _is_chosen(block, task)
        if task.split == "eval":
            _keep_originals(block, chosen, duplicates)
        if task.recipe.drop_duplicates:
            _keep_first(block, chosen, seen, duplicates)
        blocks.append(block if chosen.all() else block.take(np.flatnonzero(chosen)))
    return join_documents(blocks), duplicates


def _keep_originals(block: Documents, chosen: npt.NDArray[np.bool_], duplicates: Duplicates) -> None:
    """Removes further copies, made by a weight, from `chosen` and counts their tokens: each text is held out once."""
    tokens = np.diff(block.token_offsets()[block.sentence_offsets()])
    further = chosen & (block.num_bytes == 0)
    duplicates.tokens += int(tokens[further].sum())
    chosen &= ~further


def _keep_first(block: Documents, chosen: npt.NDArray[np.bool_], seen: set[int], duplicates: Duplicates) -> None:
    """Removes documents whose keys are in `seen` from `chosen` and counts them. Adds the other keys to `seen`."""
    tokens: Sequence[int] = np.diff(block.token_offsets()[block.sentence_offsets()]).tolist()
    for i in np.flatnonzero(chosen).tolist():
        key = int(block.keys[i])
        if key in seen:
            chosen[i] = False
            duplicates.count(int(block.num_bytes[i]), tokens[i])
        seen.add(key)


def _is_chosen(block: Documents, task: PairTask) -> npt.NDArray[np.bool_]:
    chosen = (block.hashes >= np.uint64(task.hash_from)) & (block.hashes <= np.uint64(task.hash_below - 1))
    if task.num_key_ranges > 1:
        places = address(task.recipe.seed, Purpose.DOCUMENT_ORDER, block.keys)
        edges = [-(-(index << 64) // task.num_key_ranges) for index in (task.key_range, task.key_range + 1)]
        chosen &= (places >= np.uint64(edges[0])) & (places <= np.uint64(edges[1] - 1))
    return chosen

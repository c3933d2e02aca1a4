"""The token store -> the documents of one pair task."""

import numpy as np
import numpy.typing as npt

from prep.pairing.task import PairTask
from prep.tally import Duplicates
from prep.tokens.sources import load_sources, read_places
from prep.tokens.store import Documents, StoredDocuments, damaged, in_range
from shards.randomness import Purpose, address
from shards.schema import token_dtype


def read_documents(task: PairTask) -> tuple[Documents, Duplicates]:
    """The task's documents, in the order of the shuffle. With `drop_duplicates`, only the first of those with the same key."""
    sources = load_sources(task.sources)
    stored = read_places(task.store, sources, task.first, task.last, token_dtype(task.recipe.vocab_size))
    chosen, _ = in_range(stored, task.places, task.first, task.last)
    hashes = stored.hashes[chosen]
    chosen = chosen[(hashes >= np.uint64(task.hash_from)) & (hashes <= np.uint64(task.hash_below - 1))]
    duplicates = Duplicates()
    if task.split == "eval":
        chosen = _keep_originals(stored, chosen, duplicates)
    if task.recipe.drop_duplicates:
        chosen = _keep_first(stored, chosen, duplicates)
    shuffled = np.argsort(address(task.recipe.seed, Purpose.DOCUMENT_ORDER, stored.keys[chosen]), kind="stable")
    try:
        return stored.documents(chosen[shuffled]), duplicates
    except ValueError as error:
        raise damaged(task.store, f"a file of the token store ({error})") from error


def _keep_originals(stored: StoredDocuments, chosen: npt.NDArray[np.int64], duplicates: Duplicates) -> npt.NDArray[np.int64]:
    """Leaves out further copies, made by a weight, and counts their tokens: each text is held out once."""
    is_further = stored.num_bytes[chosen] == 0
    duplicates.tokens += int(stored.num_tokens[chosen[is_further]].sum())
    originals: npt.NDArray[np.int64] = chosen[~is_further]
    return originals


def _keep_first(stored: StoredDocuments, chosen: npt.NDArray[np.int64], duplicates: Duplicates) -> npt.NDArray[np.int64]:
    """Leaves out all but the first of the documents with the same key, and counts the others."""
    _, first = np.unique(stored.keys[chosen], return_index=True)
    for document in np.delete(chosen, first).tolist():
        duplicates.count(int(stored.num_bytes[document]), int(stored.num_tokens[document]))
    kept: npt.NDArray[np.int64] = chosen[np.sort(first)]
    return kept

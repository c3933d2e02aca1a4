"""How often each token occurs in a split: the baseline that a model's MLM loss is compared with."""

import numpy as np
import numpy.typing as npt

from shards.dataset import read_group
from shards.manifest import Manifest
from shards.masking import unmask_rows
from train.data.order import RowGroups

# Enough for the baseline: a row group has some 10^5 to 10^6 tokens, and n tokens leave an error of about vocab_size / 2n
# nats. Documents are in random order, so that some row groups are a fair sample of all of them.
MAX_ROW_GROUPS = 8


def count_tokens(url: str, manifest: Manifest, split: str, rank: int, world_size: int) -> npt.NDArray[np.int64]:
    """This rank's part of the counts [vocab_size] of a split's tokens, before masking.

    Counts all row groups, or 8 of them evenly spread over the split. The sum over the ranks does not depend on their number.
    Raises UserError when a shard cannot be read.
    """
    counts = np.zeros(manifest.tokenizer["vocab_size"], np.int64)
    groups = RowGroups.of(manifest.splits[split])
    num_groups = len(groups.shard)
    sample = np.unique(np.linspace(0, num_groups - 1, min(MAX_ROW_GROUPS, num_groups)).round().astype(np.int64))
    for group in sample[rank::world_size].tolist():
        shard = manifest.splits[split].shards[groups.shard[group]]
        rows = read_group(url, manifest, split, shard, int(groups.in_shard[group]))
        counts += np.bincount(unmask_rows(rows).input_ids, minlength=len(counts))
    return counts


def unigram_loss(targets: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], is_ordinary: npt.NDArray[np.bool_]) -> float:
    """Cross-entropy, summed in nats, of predicting ordinary tokens by their frequency.

    `targets`, `counts` and `is_ordinary` [vocab_size]: how often each token is to be predicted, how often it occurs in the
    training split, and whether it is no special token. One is added to each count, so that a token that never occurred costs
    a finite loss.
    """
    smoothed = counts[is_ordinary] + 1
    return float(-(targets[is_ordinary] * np.log(smoothed / smoothed.sum())).sum())

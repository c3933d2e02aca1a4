"""The unigram baseline: frequencies of the training split, counted by all ranks together."""

from pathlib import Path

import numpy as np
import pytest
from datasets_of_rows import write_data_set
from split_rows import all_rows

from shards.manifest import Manifest, ShardInfo
from shards.masking import unmask_rows
from shards.schema import Rows
from train.data import frequencies
from train.data.frequencies import count_tokens, unigram_loss


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("ranks", [1, 3, 20])
def test_a_small_split_is_counted_whole_as_it_was_before_masking(masked: bool, ranks: int, tmp_path: Path) -> None:
    manifest = write_data_set(tmp_path, masked=masked)
    tokens = unmask_rows(all_rows(tmp_path, manifest)).input_ids
    counts = sum(count_tokens(str(tmp_path), manifest, "train", rank, ranks) for rank in range(ranks))
    assert np.array_equal(counts, np.bincount(tokens, minlength=manifest.tokenizer["vocab_size"]))


def test_of_a_large_split_some_row_groups_from_the_first_to_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_data_set(tmp_path, [40] * 6, group_rows=10)
    groups: list[tuple[str, int]] = []
    read = frequencies.read_group

    def spy(url: str, manifest: Manifest, split: str, shard: ShardInfo, group: int) -> Rows:
        groups.append((shard.path, group))
        return read(url, manifest, split, shard, group)

    monkeypatch.setattr(frequencies, "read_group", spy)
    count_tokens(str(tmp_path), manifest, "train", 0, 1)
    assert len(set(groups)) == frequencies.MAX_ROW_GROUPS
    shards = [path for path, _ in groups]
    assert groups[0][1] == 0 and groups[-1][1] == 3 and len(set(shards)) == 6 and shards == sorted(shards)


def test_the_loss_is_the_cross_entropy_of_smoothed_frequencies() -> None:
    counts, targets = np.array([90, 2, 5, 0]), np.array([7, 1, 2, 3])
    is_ordinary = np.array([False, True, True, True])
    probabilities = np.array([3, 6, 1]) / 10
    expected = -(1 * np.log(probabilities[0]) + 2 * np.log(probabilities[1]) + 3 * np.log(probabilities[2]))
    assert unigram_loss(targets, counts, is_ordinary) == pytest.approx(expected)

"""Counts over row groups, against plain loops over the same rows."""

from pathlib import Path

import numpy as np
import pytest
from data_sets_with_ledger import write
from datasets_of_rows import ROW_TOKENS
from rows_of_ids import SPECIAL

from prep.inspect import sample as sampling
from prep.inspect.report import report
from prep.inspect.sample import read_sample
from shards.formats import FORMATS
from shards.manifest import Manifest
from shards.report.html import page
from shards.schema import Rows, concatenate


def rows_of(folder: Path, manifest: Manifest, split: str = "train") -> Rows:
    read = FORMATS[manifest.settings["format"]].read
    return concatenate([read(str(folder / shard.path), shard.row_groups) for shard in manifest.splits[split].shards])


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_the_figures_are_those_of_plain_loops(format: str, tmp_path: Path) -> None:
    manifest = write(tmp_path, format=format)
    rows, sample = rows_of(tmp_path, manifest), read_sample(str(tmp_path), manifest, "train", 0, {})
    assert sample.rows == len(rows) and sample.has_labels
    lengths = rows.sequence_lengths.tolist()
    assert sample.sequence_lengths.tolist() == [lengths.count(n) for n in range(len(sample.sequence_lengths))]
    assert rows.masked_labels is not None
    shown = rows.input_ids.copy()
    places = rows.masked_indices()
    pairs = list(zip(shown[places].tolist(), rows.masked_labels.tolist(), strict=True))
    masked = sum(a == SPECIAL["mask"] for a, _ in pairs)
    kept = sum(a == b for a, b in pairs)
    assert (sample.mask.hits, sample.kept.hits) == (masked, kept)
    assert sample.random.hits == len(pairs) - masked - kept and sample.random.masked == len(pairs)
    shown[places] = rows.masked_labels
    assert sample.tokens.tolist() == np.bincount(shown, minlength=manifest.tokenizer["vocab_size"]).tolist()
    assert sample.masked.sum() == len(pairs) == manifest.splits["train"].totals()["masked_tokens"]


def test_a_large_split_is_sampled_by_seed_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write(tmp_path, shard_rows=(64, 64, 64), group_rows=8)
    monkeypatch.setattr(sampling, "SAMPLE_TOKENS", {"train": 40 * ROW_TOKENS, "eval": 1 << 20})
    samples = [read_sample(str(tmp_path), manifest, "train", seed, {}) for seed in (0, 0, 1)]
    assert 30 < samples[0].rows < 100
    assert samples[0].tokens.tolist() == samples[1].tokens.tolist() != samples[2].tokens.tolist()
    assert samples[0].passages == samples[1].passages != samples[2].passages
    sheet = report(str(tmp_path), 0)
    assert f"{samples[0].rows} of 192 rows of train and all 11 rows of eval" in sheet.sections[-1].text
    assert page(sheet) == page(report(str(tmp_path), 0))

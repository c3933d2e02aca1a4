"""Each finding of `prep report`, and that usual data has none."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from data_sets_with_ledger import LEDGER, overview_of, write

from prep.inspect.figures import Overview, make_overview
from prep.inspect.findings import findings
from shards.manifest import Split


def test_what_looks_wrong_is_said(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    overview = overview_of(tmp_path, manifest)

    def told(overview: Overview, **ledger: Any) -> str:
        changed = replace(overview.manifest, ledger=LEDGER | ledger)
        return " ".join(f"{f.problem} {f.remedy}" for f in findings(make_overview("x", changed, overview.samples, {})))

    usual = told(overview)
    assert "[UNK]" not in usual and "copies" not in usual and "dropped" not in usual and "one sentence" not in usual
    assert "10.0% of the tokens are [UNK]" in told(overview, unknown_tokens=400)
    assert "50% of the documents are copies" in told(overview, duplicates={"sampled": 90, "different": 45})
    assert "20.0% of the documents were dropped: broken json" in told(
        overview, documents={"in": 100, "used": 80, "dropped": {"broken_json": 20}}
    )
    cut = {"made": 100, "placed": 60, "truncated": 40, "unpaired": 0, "documents": 9}
    assert "40% of the tokens were cut off" in told(overview, pairs={"train": cut, "eval": cut})
    held_out = replace(manifest, splits=dict.fromkeys(manifest.splits, manifest.splits["train"]))
    assert not any("More is held out" in f.problem for f in findings(make_overview("x", held_out, overview.samples, {})))
    swapped = replace(manifest, splits=dict(zip(manifest.splits, reversed(manifest.splits.values()), strict=True)))
    assert any("More is held out" in f.problem for f in findings(make_overview("x", swapped, overview.samples, {})))
    few = LEDGER["pairs"]["train"] | {"documents": 3}
    assert "Only 3 documents" in told(overview, pairs={"train": few, "eval": few})


def test_masks_and_labels_that_are_off_are_said(tmp_path: Path) -> None:
    manifest = write(tmp_path, shard_rows=(400,))
    overview = overview_of(tmp_path, manifest)
    asked = replace(manifest, settings=manifest.settings | {"mask_replace_prob": 0.5, "random_replace_prob": 0.4})
    wrong = findings(make_overview("x", asked, overview.samples, {}))
    assert any("target 50%) of the masked tokens became [MASK]" in finding.problem for finding in wrong)
    (shard,) = manifest.splits["train"].shards
    for changes, message in (
        ({"not_next": shard.sequences // 4}, "of the pairs with a choice are not next"),
        ({"forced_not_next": shard.sequences * 3 // 4, "not_next": shard.sequences}, "could only be not next"),
    ):
        split = Split([replace(shard, **changes)])
        changed = replace(manifest, splits=manifest.splits | {"train": split})
        assert any(message in finding.problem for finding in findings(make_overview("x", changed, overview.samples, {})))

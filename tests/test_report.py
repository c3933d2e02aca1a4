"""`prep report`: its figures against other code, what it warns of, and what it says where it cannot."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import ROOT, run_prep
from conftest import BuildRunner
from datasets_of_rows import ROW_TOKENS, write_data_set
from rows_of_ids import SPECIAL

from prep.inspect import sample as sampling
from prep.inspect.figures import Overview, binned_padding, clustered, make_overview, padding, wilson
from prep.inspect.findings import findings
from prep.inspect.report import make_sheet, report
from prep.inspect.sample import Actions, read_sample
from shards import storage
from shards.errors import UserError
from shards.formats import FORMATS
from shards.manifest import Manifest
from shards.report.html import page, print_and_publish
from shards.report.sheet import Bars, Finding, Sheet
from shards.schema import Rows, concatenate

LEDGER: dict[str, Any] = {
    "documents": {"in": 90, "used": 90, "dropped": {}},
    "bytes": {"in": 9000, "used": 9000, "dropped": {}},
    "sentences": 400,
    "tokens": 4000,
    "unknown_tokens": 4,
    "pairs": {
        name: {"documents": 45, "made": 2000, "placed": 1900, "truncated": 80, "unpaired": 20, "redrawn": 1, "dropped": 0}
        for name in ("train", "eval")
    },
    "document_tokens_histogram": [0, 0, 0, 0, 30, 60, 0, 0],
    "sentence_tokens_histogram": [0, 0, 100, 300, 0, 0, 0, 0],
    "duplicates": {"sampled": 90, "different": 90},
    "corpora": [],
}


def write(folder: Path, ledger: dict[str, Any] | None = None, **options: Any) -> Manifest:
    """A data set of random rows with a ledger made by hand."""
    manifest = replace(
        write_data_set(folder, **options), ledger=LEDGER | (ledger or {}), inputs={"files": 3, "bytes": 9000, "listed": []}
    )
    storage.publish(str(folder / "manifest.json"), manifest.to_json())
    return manifest


def rows_of(folder: Path, manifest: Manifest, split: str = "train") -> Rows:
    read = FORMATS[manifest.settings["format"]].read
    return concatenate([read(str(folder / shard.path), shard.row_groups) for shard in manifest.splits[split].shards])


def overview_of(folder: Path, manifest: Manifest) -> Overview:
    samples = {name: read_sample(str(folder), manifest, name, 0, {}) for name in manifest.splits}
    return make_overview(str(folder), manifest, samples, {})


def said(sheet: Sheet) -> dict[str, str]:
    return {fact.name: fact.value for section in sheet.sections for fact in section.facts}


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


def test_intervals() -> None:
    rate = wilson(50, 100, 0.5)
    assert (round(rate.low, 4), round(rate.high, 4)) == (0.4038, 0.5962)  # published for 50 of 100
    draws = np.random.default_rng(0).random(20_000) < 0.8
    alone, tied = Actions(), Actions()
    alone.add(np.ones(len(draws), np.int64), draws.astype(np.int64))
    tied.add(np.full(len(draws), 4), 4 * draws.astype(np.int64))  # each draw decides of four tokens
    one, four = clustered(alone, 0.8), clustered(tied, 0.8)
    expected = wilson(int(draws.sum()), len(draws), 0.8)
    assert one.high - one.low == pytest.approx(expected.high - expected.low, rel=0.01)
    assert four.high - four.low == pytest.approx(one.high - one.low, rel=1e-9)
    assert not one.is_off and replace(one, target=0.85).is_off


def test_padding_of_other_layouts() -> None:
    lengths = np.bincount([10, 30, 32, 33, 128], minlength=129)
    assert binned_padding(lengths, 128, 4) == pytest.approx(1 - 233 / (32 + 32 + 32 + 64 + 128))
    assert binned_padding(lengths, 128, 1) == pytest.approx(1 - 233 / (5 * 128))
    totals = {"rows": 1, "sequences": 5, "tokens": 233}
    packed = dict(padding(totals, {"max_seq_len": 128, "pack_to": 512}, lengths))
    assert packed["each padded to 128"] == pytest.approx(1 - 233 / 640)
    assert packed["each padded to 512"] == pytest.approx(1 - 233 / 2560)
    alone = dict(padding(totals | {"rows": 5}, {"max_seq_len": 128, "pack_to": 0}, lengths))
    assert "each padded to 128" not in alone and alone["this data set: each padded to 128"] == pytest.approx(1 - 233 / 640)


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
        split = replace(manifest.splits["train"], shards=(replace(shard, **changes),))
        changed = replace(manifest, splits=manifest.splits | {"train": split})
        assert any(message in finding.problem for finding in findings(make_overview("x", changed, overview.samples, {})))


def test_a_data_set_without_labels_and_masks(tmp_path: Path) -> None:
    write(tmp_path / "a", pairs=False, masked=False, packed=False)
    facts = said(report(str(tmp_path / "a"), 0))
    assert facts["labels"] == "none" and facts["masked tokens"] == "drawn while reading"
    assert "%" in facts["became [MASK]"]  # of the held-out split
    assert page(report(str(tmp_path / "a"), 0)).count("B is") == 0


def test_the_words_of_sentence_order(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    sheet = make_sheet(overview_of(tmp_path, replace(manifest, settings=manifest.settings | {"pairing": "sop"})))
    assert said(sheet)["pairing"] == "sop" and "swapped, all" in said(sheet)


def test_a_data_set_of_many_shards_somewhere_else(tmp_path: Path) -> None:
    manifest = write(tmp_path, shard_rows=(3, 9, 5) * 4)
    url = "memory://report/set"  # in this process, so no bucket is needed
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        storage.publish(f"{url}/{path.relative_to(tmp_path)}", path.read_bytes())
    sheet = report(url, 0)
    sizes = next(chart for section in sheet.sections for chart in section.charts if chart.title.startswith("sizes of"))
    assert isinstance(sizes, Bars) and sum(bar.length for bar in sizes.bars) == 12
    assert said(sheet)["rows"] == str(manifest.splits["train"].totals()["rows"])
    print_and_publish(sheet, f"{url}/report.html")
    assert storage.read_bytes(f"{url}/report.html").decode() == page(sheet)


def test_a_real_data_set(paragraphs: list[str], tmp_path: Path, build: BuildRunner) -> None:
    (tmp_path / "thrice.txt").write_text("\n".join(paragraphs[:200] * 3) + "\n", encoding="utf8")
    out = build(tmp_path / "thrice.txt", "--eval-fraction", 0.1)
    done = run_prep("report", out, "--html", out / "report.html")
    assert done.returncode == 0 and "\x1b" not in done.stdout and done.stderr == ""
    sheet = report(str(out), 0)
    assert max(map(len, done.stdout.partition("A look inside")[0].splitlines()[1:])) <= 80
    assert (out / "report.html").read_text(encoding="utf8") == page(sheet)
    assert any(finding.problem.startswith("About 67% of the documents are copies") for finding in sheet.findings)
    bars = {chart.title: chart for section in sheet.sections for chart in section.charts if isinstance(chart, Bars)}
    (used,) = bars["where every byte of text went (documents)"].bars
    assert used.label == "used" and "(600)" in used.text


def test_every_other_recipe(paragraphs: list[str], tmp_path: Path, build: BuildRunner) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("\n".join(paragraphs[:300]) + "\n", encoding="utf8")
    corpora = ("--corpus", tmp_path / "a.txt", tmp_path / "b.txt")  # the last --corpus holds
    recipe = ("--corpus-weight", 1, 0.5, "--dedup", "exact", "--pairing", "sop", "--mask-unit", "span")
    out = build("", *corpora, *recipe, "--mask-replace-prob", 0.7, "--eval-fraction", 0.1)
    sheet = report(str(out), 0)
    titles = [chart.title for section in sheet.sections for chart in section.charts]
    assert "tokens of each corpus" in titles and said(sheet)["pairing"] == "sop" and "swapped, all" in said(sheet)
    assert 0.65 < float(said(sheet)["became [MASK]"].rstrip("%")) / 100 < 0.75
    assert not any("dropped" in finding.problem or "copies" in finding.problem for finding in sheet.findings)
    assert "A and B are" in page(sheet)


def test_a_terminal_without_unicode(tmp_path: Path) -> None:
    write(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "prep", "report", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 0 and done.stdout.decode("ascii").count("###") > 3


def test_findings_come_first(tmp_path: Path) -> None:
    write(tmp_path, ledger={"unknown_tokens": 3000})
    done = run_prep("report", tmp_path)
    assert done.stdout.index("! 75.0% of the tokens are [UNK].") < done.stdout.index("Corpus")
    sheet = Sheet("t", "p", "s", [Finding("<b>", "x")], [])
    assert page(sheet).index("&lt;b&gt;") < page(sheet).index("<footer>")


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    manifest = write(tmp_path / "set")
    (tmp_path / "file").write_text("")
    for arguments, message in (
        ((tmp_path,), "not a finished data set"),
        ((tmp_path / "set", "--html", ""), "--html is empty"),
        ((tmp_path / "set", "--html", tmp_path / "file" / "report.html"), "cannot write it"),
        ((tmp_path / "set", "--seed", -1), "--seed is -1"),
    ):
        done = run_prep("report", *arguments)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr, done.stderr
        assert done.stdout == ""
    shard = tmp_path / "set" / manifest.splits["train"].shards[0].path
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(UserError, match="cannot be decoded"):
        report(str(tmp_path / "set"), 0)
    write_data_set(tmp_path / "other")  # whose manifest has no ledger
    with pytest.raises(UserError, match="a field is missing or wrong"):
        report(str(tmp_path / "other"), 0)

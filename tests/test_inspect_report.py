"""`prep report`: its sections, its outputs, and its one line of error."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from commands import run_prep
from conftest import BuildRunner
from data_sets_with_ledger import overview_of, write

from prep.inspect.report import make_sheet, report
from shards import storage
from shards.errors import UserError
from shards.report.html import page, print_and_publish
from shards.report.sheet import Bars, Finding, Sheet


def facts_of(sheet: Sheet) -> dict[str, str]:
    return {fact.name: fact.value for section in sheet.sections for fact in section.facts}


def test_a_data_set_without_labels_and_masks(tmp_path: Path) -> None:
    write(tmp_path / "a", pairs=False, masked=False, packed=False)
    facts = facts_of(report(str(tmp_path / "a"), 0))
    assert facts["labels"] == "none" and facts["masked tokens"] == "drawn while reading"
    assert "%" in facts["became [MASK]"]  # of the held-out split
    assert page(report(str(tmp_path / "a"), 0)).count("B is") == 0


def test_the_words_of_sentence_order(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    sheet = make_sheet(overview_of(tmp_path, replace(manifest, settings=manifest.settings | {"pairing": "sop"})))
    assert facts_of(sheet)["pairing"] == "sop" and "swapped, all" in facts_of(sheet)


def test_a_data_set_of_many_shards_somewhere_else(tmp_path: Path) -> None:
    manifest = write(tmp_path, shard_rows=(3, 9, 5) * 4)
    url = "memory://report/set"  # in this process, so no bucket is needed
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        storage.publish(f"{url}/{path.relative_to(tmp_path)}", path.read_bytes())
    sheet = report(url, 0)
    sizes = next(chart for section in sheet.sections for chart in section.charts if chart.title.startswith("sizes of"))
    assert isinstance(sizes, Bars) and sum(bar.length for bar in sizes.bars) == 12
    assert facts_of(sheet)["rows"] == str(manifest.splits["train"].totals()["rows"])
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
    assert "tokens of each corpus" in titles and facts_of(sheet)["pairing"] == "sop" and "swapped, all" in facts_of(sheet)
    assert 0.65 < float(facts_of(sheet)["became [MASK]"].rstrip("%")) / 100 < 0.75
    assert not any("dropped" in finding.problem or "copies" in finding.problem for finding in sheet.findings)
    assert "A and B are" in page(sheet)


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
    with pytest.raises(UserError, match="the manifest says"):
        report(str(tmp_path / "set"), 0)
    broken = json.loads((tmp_path / "set" / "manifest.json").read_text())
    del broken["ledger"]["tokens"]
    (tmp_path / "set" / "manifest.json").write_text(json.dumps(broken))
    with pytest.raises(UserError, match=r"ledger\.tokens is missing"):
        report(str(tmp_path / "set"), 0)

"""What the documents say is there and works."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batches import bert
from commands import ROOT, manifest_of, run_prep
from conftest import BuildRunner
from datasets_of_rows import write_data_set
from launch import run

from shards.formats import FORMATS
from shards.manifest import Manifest

PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "shards" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf8")):
        assert link.startswith("http") or (page.parent / link).exists(), link


def test_every_flag_that_is_named_exists() -> None:
    known = run_prep("build", "--help").stdout + run_prep("show", "--help").stdout + run_prep("clean", "--help").stdout
    known += run_prep("report", "--help").stdout
    known += "".join(
        run(0, "--help", module=module)[1] for module in ("train", "train.evaluate", "train.export", "train.report")
    )
    for page in PAGES:
        for flag in re.findall(r"`(--[a-z-]+)", page.read_text(encoding="utf8")):
            assert flag in known or flag == "--max-restarts", f"{page}: {flag}"  # that one is torchrun's


def test_the_configuration_in_the_readme_is_read(tmp_path: Path) -> None:
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("One text. And more.\n")
    (tmp_path / "wiki.jsonl.zst").write_bytes(b"")
    (block,) = blocks(ROOT / "README.md", "toml")
    (tmp_path / "mine.toml").write_text(block)
    done = run_prep("plan", "--config", "mine.toml", cwd=tmp_path)
    assert done.returncode == 0 and "of parquet in data/mine" in done.stdout, done.stderr


def test_the_format_page_shows_how_to_read_a_row(build: BuildRunner, corpus: Path) -> None:
    out = build(corpus)
    manifest, _ = Manifest.from_json((out / "manifest.json").read_bytes(), "m")
    shard = manifest.splits["train"].shards[0]
    rows = FORMATS["parquet"].read(str(out / shard.path), shard.row_groups).slice(3, 4)
    names: dict[str, object] = {"np": np, "row": {name: values.tolist() for name, _, values in rows.columns()}}
    (code,) = blocks(ROOT / "shards" / "README.md", "python")
    exec(code, names)
    special = manifest_of(out)["tokenizer"]["special_ids"]
    ids, positions, segments = rows.input_ids, np.asarray(names["position_ids"]), np.asarray(names["token_type_ids"])
    assert (ids[positions == 0] == special["cls"]).all() and len(ids) == len(positions) == len(segments)
    assert np.count_nonzero(positions == 0) == len(rows.sequence_lengths)
    assert (ids[:-1][np.diff(segments) == 1] == special["sep"]).all()
    labels = np.asarray(names["labels"])
    assert rows.masked_labels is not None and (labels[labels >= 0] == rows.masked_labels).all()


def test_the_stream_is_used_as_the_readme_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_data_set(tmp_path / "data" / "demo")
    names: dict[str, Any] = {"model": bert()}
    _, loop = blocks(ROOT / "README.md", "python")
    exec(loop.replace("global_batch=64, micro_batch=16, epochs=3", "global_batch=8, micro_batch=4, epochs=1"), names)
    assert names["loss"].item() > 0 and names["state"]["step"] > 1


def test_the_stream_is_used_as_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_data_set(tmp_path / "data" / "demo")
    names: dict[str, Any] = {"model": bert()}
    loop, trainer = blocks(ROOT / "docs" / "train.md", "python")
    exec(loop, names)
    assert names["state"]["step"] == 27 and names["loss"].item() > 0
    exec(trainer.replace("max_steps=100", "max_steps=3, report_to=[], use_cpu=True"), names)
    assert names["trainer"].state.global_step == 3

"""What the documents say is there and works."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, BuildRunner, manifest_of, run_prep

from shards.formats import FORMATS
from shards.manifest import Manifest

PAGES = [ROOT / "README.md", ROOT / "shards" / "README.md", ROOT / "docs" / "prep.md"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf8")):
        assert link.startswith("http") or (page.parent / link).exists(), link


def test_every_flag_that_is_named_exists() -> None:
    known = run_prep("build", "--help").stdout + run_prep("show", "--help").stdout + run_prep("clean", "--help").stdout
    for page in PAGES:
        for flag in re.findall(r"`(--[a-z-]+)", page.read_text(encoding="utf8")):
            assert flag in known, f"{page}: {flag}"


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

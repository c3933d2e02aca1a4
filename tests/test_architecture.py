"""The edges between the packages, proved from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import ROOT

PACKAGES = ("prep", "shards", "train")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).glob("**/*.py"))]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_flow_of_data(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    roots = {name.partition(".")[0] for name in imports(path)}
    assert not roots & {"prep": {"train"}, "train": {"prep"}, "shards": {"prep", "train"}}[package]
    if package != "train":
        assert not roots & {"torch", "transformers"}
    if package != "prep":
        assert not roots & {"tokenizers", "nanotoken", "sentencex"}
    if path != ROOT / "shards" / "storage" / "backend.py":
        assert "fsspec" not in roots
    assert not roots & {"pickle", "random"}


def test_prep_runs_without_torch() -> None:
    modules = "prep.build, prep.summary, prep.inspect.verify, prep.inspect.show, prep.inspect.report"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_only_one_module_draws_random_numbers() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf8")
        assert "np.random" not in text, path
        assert "hash(" not in text.replace("content_hash(", ""), path

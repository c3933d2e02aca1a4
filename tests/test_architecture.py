"""The shape of the code, proved from the source: who imports whom, how many rooms there are, what an `__init__` holds."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from commands import ROOT

PACKAGES = ("prep", "shards", "train")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).glob("**/*.py"))]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}
# What a folder may import of its own package, as docs/design.md draws it. A new arrow belongs in both.
ARROWS = {
    "prep.corpus": {"prep.settings"},
    "prep.tokens": {"prep.corpus", "prep.plan", "prep.progress", "prep.records", "prep.settings"},
    "prep.pairing": {"prep.tokens", "prep.progress", "prep.records", "prep.tally"},
    "prep.engines": {"prep.corpus", "prep.tokens", "prep.pairing", "prep.plan", "prep.progress"},
    "prep.inspect": {"prep.tokens", "prep.pairing", "prep.engines", "prep.partitions", "prep.progress"},
    "train.data": set(),
    "shards.storage": {"shards.errors"},
    "shards.command": {"shards.errors", "shards.storage"},
    "shards.report": {"shards.errors", "shards.storage", "shards.command"},
}
# Modules and folders at the top of a package: more, and a stranger no longer finds the way.
MOST_ROOMS = {"prep": 20, "train": 24, "shards": 20}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf8"))


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in MODULES else node.module or "" for name in names)


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


def room(module: str) -> str:
    """The module or folder at the top of a package: prep.corpus.warc -> prep.corpus."""
    return ".".join(module.split(".")[:2])


def test_imports_follow_the_arrows_between_folders() -> None:
    arrows = {folder: set[str]() for folder in ARROWS}
    for module, path in MODULES.items():
        if room(module) in arrows:
            package = module.partition(".")[0]
            rooms = {room(name) for name in imports(path) if name.partition(".")[0] == package}
            arrows[room(module)] |= rooms - {room(module)}
    for folder, others in arrows.items():
        assert others <= ARROWS[folder], f"{folder} imports {sorted(others - ARROWS[folder])}"


def test_imports_follow_no_circle() -> None:
    graph = {module: {name for name in imports(path) if name in MODULES} - {module} for module, path in MODULES.items()}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_every_folder_is_in_the_arrows() -> None:
    folders = {room(module) for module, path in MODULES.items() if len(path.relative_to(ROOT).parts) > 2}
    assert folders == set(ARROWS)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_top_of_a_package_has_few_rooms(package: str) -> None:
    rooms = {room(module) for module in MODULES if module.startswith(f"{package}.")}
    assert len(rooms) <= MOST_ROOMS[package], sorted(rooms)


def test_prep_runs_without_torch() -> None:
    modules = "prep.build, prep.summary, prep.inspect.verify, prep.inspect.show, prep.inspect.report"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_only_one_module_draws_random_numbers() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf8")
        assert "np.random" not in text, path
        assert "hash(" not in text.replace("content_hash(", ""), path

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
    "train.device": {"train.data", "train.models", "train.settings"},
    "train.models": {"train.checkpoint", "train.data"},
    "train.optimizers": {"train.settings", "train.device"},
    "train.recipe": {"train.data", "train.optimizers", "train.settings"},
    "train.start": {
        *("train.checkpoint", "train.data", "train.device", "train.history", "train.models", "train.optimizers"),
        *("train.ranks", "train.recipe", "train.run", "train.settings", "train.step"),
    },
    "shards.gate": {"shards.schema"},
    "shards.storage": {"shards.errors"},
    "shards.command": {"shards.errors", "shards.storage"},
    "shards.report": {"shards.errors", "shards.storage", "shards.command"},
}
# Modules and folders at the top of a package: more, and a stranger no longer finds the way.
MOST_ROOMS = {"prep": 20, "train": 24, "shards": 22}


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
        assert not roots & {"tokenizers", "nanotoken", "gigatoken", "sentencex"}
    if path != ROOT / "shards" / "storage" / "on_fsspec.py":
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


# Participles and adverbs that are no names: a name is a noun or a verb of the domain.
NO_NAMES = {"told", "said", "asked", "there"}


def test_names_are_nouns() -> None:
    for path in SOURCES:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                assert node.id.strip("_") not in NO_NAMES, f"{path}:{node.lineno}"
            elif isinstance(node, ast.arg):
                assert node.arg.strip("_") not in NO_NAMES, f"{path}:{node.lineno}"


def test_a_docstring_is_a_sentence_of_its_own() -> None:
    for path in SOURCES:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                assert not (ast.get_docstring(node) or "").startswith("Of "), f"{path}: {getattr(node, 'name', '')}"


# Modules without a test file of their name, by the file that tests them: they are what one command or one reader is made of.
TESTED_BY = {
    "test_command": (
        "prep.__main__",
        "prep.inspect.show",
        "prep.inspect.passages",
        "prep.output",
        "shards.command.console",
        "shards.errors",
    ),
    "test_build": ("prep.job", "prep.tasks", "shards.manifest", "shards.parquet", "shards.schema", "shards.dataset"),
    "test_corpus_formats": ("prep.corpus.parquet", "prep.corpus.tar", "prep.corpus.json_lines", "prep.corpus.text"),
    "test_read": ("prep.corpus.documents",),
    "test_gate": ("shards.gate.fields", "shards.gate.manifest", "shards.gate.rows", "shards.gate.shards"),
    "test_nsp": ("prep.pairing.rows", "prep.pairing.sequences", "prep.pairing.selection", "prep.tally"),
    "test_pairings": (
        "prep.pairing.frame",
        "prep.pairing.full_sentences",
        "prep.pairing.paragraph",
        "prep.pairing.sop",
        "prep.pairing.truncation",
    ),
    "test_local": ("prep.engines.forks", "prep.engines.preloaded.bert_shards_workers"),
    "test_pair": ("prep.pairing.task",),
    "test_plan": ("prep.corpus.inputs",),
    "test_summary": ("prep.estimate",),
    "test_store": ("prep.tokens.layout", "prep.tokens.sources"),
    "test_masking": ("shards.checks", "shards.mask_units", "shards.mask_spans"),
    "test_recipes": ("shards.template",),
    "test_tokenize": ("prep.tokens.task", "prep.tokens.batches", "prep.tokens.encode", "prep.tokens.merge"),
    "test_document": ("prep.tokens.long_texts",),
    "test_encoder": ("prep.tokens.fast",),
    "test_formats": ("shards.tar", "shards.npz"),
    "test_inspect_report": ("shards.report.svg",),
    "test_storage": ("shards.storage.files", "shards.storage.urls"),
    "test_storage_errors": ("shards.storage.redaction",),
    "test_storage_faults": ("shards.storage.on_fsspec", "shards.storage.faults", "shards.storage.reading"),
    "test_storage_ranges": ("shards.storage.blocks",),
    "test_cache": ("train.data.leases", "train.data.copying"),
    "test_batch": ("train.data.layout",),
    "test_reader": ("train.data.row_groups",),
    "test_pretrained": ("train.models.config",),
    "test_attention": ("train.device.local_attention",),
    "test_phases": (
        "train.recipe.changes",
        "train.recipe.file",
        "train.recipe.records",
        "train.recipe.sources",
        "train.data.sources",
    ),
    "test_optimizers": (
        "train.optimizers.make",
        "train.optimizers.lamb",
        "train.optimizers.stable_adamw",
        "train.optimizers.muon",
        "train.optimizers.moments",
    ),
    "test_train_command": ("train.__main__", "train.export", "train.run", "train.start.prepare", "train.start.join"),
    "test_loop": ("train.row_log", "train.scorer"),
}


def test_every_module_is_tested_where_its_name_says() -> None:
    tests = {path.stem for path in (ROOT / "tests").glob("test_*.py")}
    assert set(TESTED_BY) <= tests
    elsewhere = {module for modules in TESTED_BY.values() for module in modules}
    assert elsewhere <= set(MODULES), f"no such modules: {sorted(elsewhere - set(MODULES))}"
    for module, path in MODULES.items():
        parts = module.split(".")
        own = {f"test_{parts[-1]}", f"test_{'_'.join(parts[-2:])}"}
        assert path.name == "__init__.py" or own & tests or module in elsewhere, module

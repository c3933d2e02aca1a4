"""Compiled code is cached under a digest of its sources, and of no others."""

import subprocess
import sys
from pathlib import Path

import pytest

from shards import compiled

SOURCES = {
    "prep/loops/kernel.py": (
        "from prep.loops.constants import STEP\nfrom shards.compiled import compiled\n\n\n"
        "@compiled\ndef add(value):\n    return value + STEP\n"
    ),
    "prep/loops/constants.py": "STEP = 1\n",
    "prep/card.py": "",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project of the same layout, with our module in it."""
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "compiled.py").write_bytes(Path(compiled.__file__).read_bytes())
    return tmp_path


def added(project: Path) -> tuple[int, set[str]]:
    """1 + STEP as compiled code has it, and the names of the caches after that."""
    code = "from prep.loops.kernel import add; print(add(1))"
    environment = {"NUMBA_CACHE_DIR": str(project / "cache"), "PYTHONPATH": str(project), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout), {path.name for path in (project / "cache").iterdir()}


def test_a_change_of_an_imported_module_recompiles_and_that_of_another_does_not(project: Path) -> None:
    value, caches = added(project)
    assert value == 2 and len(caches) == 1
    (project / "prep" / "card.py").write_text("# another comment\n")
    assert added(project) == (2, caches)
    (project / "prep" / "loops" / "constants.py").write_text("STEP = 5\n")
    value, more = added(project)
    assert value == 6 and len(more) == 2 and caches < more


def test_loops_depend_on_few_modules() -> None:
    """An edit of a module that is not about pairs or masks recompiles no loop."""
    root = Path(compiled.__file__).parent.parent
    loops = [path for package in ("prep", "shards", "train") for path in (root / package).rglob("*.py")]
    loops = [path for path in loops if "import compiled" in path.read_text() and path != Path(compiled.__file__)]
    assert len(loops) > 8
    for path in loops:
        names = {str(source.relative_to(root)) for source in compiled.sources_of(path)}
        assert str(path.relative_to(root)) in names and "shards/compiled.py" in names
        assert not [name for name in names if name.startswith(("shards/storage/", "shards/report/", "prep/inspect/"))], path

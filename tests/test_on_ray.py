from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT, BuildRunner, manifest_of
from engine_tasks import MarkTask, check_tasks, work

from prep.engines.engine import run_tasks
from prep.engines.open import open_engine
from shards.errors import UserError


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not among the development tools, for its size")
def test_ray_on_this_machine(tmp_path: Path, build: BuildRunner, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        open_engine("ray", 1) as engine,
        pytest.raises(UserError, match="No module named 'engine_tasks'; install this project"),
    ):
        list(run_tasks(engine, work, [MarkTask(0, str(tmp_path))]))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    with open_engine("ray", 2) as engine:
        check_tasks(engine, [MarkTask(n, str(tmp_path), deaths=int(n == 1)) for n in range(6)], tmp_path)
    assert manifest_of(build(corpus, "--engine", "ray", name="ray")) == manifest_of(build(corpus, name="local"))

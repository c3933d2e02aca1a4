import socket
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT, BuildRunner, manifest_of
from engine_tasks import MarkTask, check_tasks, work

from prep.engines import on_ray
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


def test_a_head_node_that_is_gone_ends_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "_TRY_EVERY_S", -1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        head = on_ray._Head("ray:there", f"127.0.0.1:{server.getsockname()[1]}")
        assert head.checked(lambda: 7) == 7
    assert head.checked(lambda: pytest.fail("Ray would wait for that node")) == 1
    monkeypatch.setattr(on_ray, "CONNECT_S", -1)
    with pytest.raises(UserError, match="--engine ray:there: its head node is gone; finished tasks are kept, run the same"):
        head.checked(lambda: 7)

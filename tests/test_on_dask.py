import gc
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_tasks import MarkTask, check_tasks

from prep.engines import on_dask
from prep.engines.open import open_engine
from shards.errors import UserError

pytest.importorskip("distributed")


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """A client that could not connect ends its thread when it is collected, best not while the next client begins."""
    yield
    gc.collect()


@pytest.mark.usefixtures("nothing_left")
def test_an_address_without_an_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_dask, "CONNECT_S", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with (
            pytest.raises(UserError, match=f"--engine dask:{address}: no answer from that address"),
            open_engine(f"dask:{address}", 0),
        ):
            pass


def test_dask_on_this_machine(tmp_path: Path) -> None:
    with open_engine("dask", 2) as engine:
        assert engine.window() >= 2
        check_tasks(engine, [MarkTask(n, str(tmp_path)) for n in range(6)], tmp_path)

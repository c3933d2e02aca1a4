import pytest
from engine_tasks import MarkTask, work

from prep.engines.adapter import run_at_worker, window_of
from shards.errors import UserError


def test_a_worker_of_other_versions_refuses() -> None:
    with pytest.raises(UserError, match=r"has other versions \(sentencex .* than this process \(1, 2\); install the same"):
        run_at_worker((1, 2), work, MarkTask(0, ""))


def test_the_window_follows_the_cluster(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("prep.engines.adapter._COUNT_EVERY_S", -1.0)
    counts = iter([0, 0, 3, 50])
    window = window_of("dask:there", 0, lambda: next(counts))
    assert [window() for _ in range(5)] == [2, 2, 6, 100, 100]  # in the end there is no answer
    assert capsys.readouterr().err == "--engine dask:there: has no workers now; waiting for some\n"
    assert window_of("dask:there", 7, lambda: 50)() == 7

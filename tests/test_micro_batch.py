"""`--micro-batch` that is no number: settled once, and used at every resume."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from launch import run, tiny

from train.ranks import Ranks
from train.settings import AUTO_ROWS, DEFAULT_ROWS, Settings, default_micro_batch
from train.start.join import join_ranks
from train.start.micro_batch import doubling, saved_rows, settle, speed_of
from train.start.prepare import prepare

ALONE = Ranks(0, 1, torch.device("cpu"))


def settings_of(data: Path, out: Path, micro_batch: int) -> Settings:
    return Settings(data=(str(data),), out=str(out), model="tiny", epochs=1, global_batch=24, micro_batch=micro_batch)


def test_a_number_stays_and_the_default_of_a_cpu_depends_on_the_batch_alone(random_data: Path, tmp_path: Path) -> None:
    settings = settings_of(random_data, tmp_path / "run", 8)
    assert settle(settings, ALONE) == (settings, [])
    settled, messages = settle(replace(settings, micro_batch=DEFAULT_ROWS), ALONE)
    assert settled.micro_batch == default_micro_batch(24) == 3 and not messages


def test_auto_is_settled_when_a_run_begins_and_kept(random_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial is a stand-in, whose result does not depend on this machine's speed."""
    tried: list[int] = []

    def measure(rows: int) -> float:
        tried.append(rows)
        return float(min(rows, 4))

    monkeypatch.setattr("train.start.micro_batch.speed_of", lambda _: measure)
    out = tmp_path / "run"
    flags = (*tiny(random_data, out, epochs=1), "--micro-batch", "auto")
    code, _, err = run(0, *flags)
    assert code == 0 and "micro-batch: 4 rows were the fastest" in err, err
    assert tried == [1, 2, 4, 12] and saved_rows(settings_of(random_data, out, AUTO_ROWS)) == 4
    record = json.loads((out / "checkpoints" / "step-0000000006" / "training.json").read_text())
    assert record["settings"]["micro_batch"] == 4
    code, _, err = run(0, *flags, "--epochs", 2)
    assert code == 0 and "micro-batch: 4 rows, as before" in err and "changed since: micro_batch" not in err
    assert len(tried) == 4, "nothing is tried again"


def test_a_trial_measures_a_speed_or_says_that_the_rows_do_not_fit(
    random_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = prepare([settings_of(random_data, tmp_path / "run", 3)], ALONE)
    join_ranks(job)
    measure = speed_of(job)
    assert (measure(2) or 0.0) > 0

    errors = [torch.OutOfMemoryError("CUDA"), RuntimeError("x: can't allocate memory"), RuntimeError("a bug")]

    def fail(*_: object, **__: object) -> None:
        raise errors.pop(0)

    monkeypatch.setattr("train.start.micro_batch.backward", fail)
    assert measure(2) is None and measure(2) is None
    with pytest.raises(RuntimeError, match="a bug"):
        measure(2)


def test_candidates_double() -> None:
    assert doubling([1, 2, 3, 4, 6, 12]) == [1, 2, 4, 12]
    assert doubling([1, 3, 5]) == [1, 3, 5] and doubling([7]) == [7]

"""Resuming: from the newest good checkpoint, of the same run only, and of one that no other process uses."""

import shutil
from pathlib import Path

import pytest
from datasets_of_rows import write_data_set
from launch import refused, run, tiny, weights
from safetensors.torch import load_file


def test_a_run_in_use_is_left_alone(random_data: Path, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "run").mkdir()
    with open(tmp_path / "run" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another run is at work there" in refused(*tiny(random_data, tmp_path / "run"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "mini"), "model hidden_size: 128 -> 256"),
        (("--seed", 1), "seed: 0 -> 1"),
        (("--lr", 0.5), "lr: 0.001 -> 0.5"),
        (("--dropout", 0.2), "dropout: 0.1 -> 0.2"),
        (("--global-batch", 24), "global_batch: 12 -> 24"),
        (("--masking", "dynamic"), "masking: stored -> dynamic"),
        (("--epochs", 1, "--data", "OTHER"), "the data set is another one"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_with_the_difference(
    arguments: tuple[object, ...], message: str, random_data: Path, trained: Path, tmp_path: Path
) -> None:
    write_data_set(tmp_path / "other", seed=9)
    given = [tmp_path / "other" if argument == "OTHER" else argument for argument in arguments]
    before = weights(trained, 6)
    settings = (trained / "run.json").read_bytes()
    line = refused(*tiny(random_data, trained, epochs=1), *given)
    assert "was begun with other settings" in line and message in line
    assert weights(trained, 6) == before and (trained / "run.json").read_bytes() == settings


def test_a_damaged_newest_checkpoint_falls_back_aloud(random_data: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    damaged = tmp_path / "run" / "checkpoints" / "step-0000000006" / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    code, _, err = run(0, *tiny(random_data, tmp_path / "run", epochs=1))
    assert code == 0 and "damaged checkpoint skipped" in err and "resuming from step 4" in err
    assert weights(tmp_path / "run", 6) == weights(trained, 6)
    assert load_file(damaged)

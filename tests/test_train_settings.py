"""Settings of a run that are not allowed: one line that names the value."""

from pathlib import Path

import pytest
from launch import refused, tiny


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--micro-batch", 5), "--micro-batch 5 does not divide --global-batch 12"),
        (("--steps", 5), "set exactly one of --steps, --tokens and --epochs"),
        (("--lr", 0), "--lr is 0.0, must be above 0"),
        (("--dropout", 1), "--dropout is 1.0, must be from 0.0 to 0.9"),
        (("--attention", "varlen"), "--attention varlen needs an NVIDIA device"),
        (("--row-log", "s3://bucket/row_log"), "must be a folder on a disk"),
    ],
)
def test_values_that_make_no_sense(arguments: tuple[object, ...], message: str, random_data: Path, tmp_path: Path) -> None:
    assert message in refused(*tiny(random_data, tmp_path / "run"), *arguments)


def test_an_output_that_cannot_be_written(random_data: Path, tmp_path: Path) -> None:
    assert "is inside the data set" in refused(*tiny(random_data, random_data / "run"))
    assert "ends with the process" in refused(*tiny(random_data, tmp_path), "--out", "memory://run")
    assert "--out or --checkpoint is empty" in refused("--checkpoint", tmp_path, "--out", "", module="train.export")
    (tmp_path / "file").write_text("")
    assert "cannot write it" in refused(*tiny(random_data, tmp_path / "file" / "run"))

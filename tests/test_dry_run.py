"""`--dry-run`: it tells much, and writes nothing."""

from pathlib import Path

from launch import refused, run, tiny


def test_dry_run_says_much_and_writes_nothing(random_data: Path, tmp_path: Path) -> None:
    code, out, err = run(0, *tiny(random_data, tmp_path / "run"), "--dry-run")
    assert code == 0 and not err and not (tmp_path / "run").exists()
    for words in (
        "72 rows",
        "24 steps of 12 rows",
        "4 micro-batches of 3 rows",
        "parameters",
        "largest micro-batch",
        "mean micro-batch",
        "for all steps, at most",
        "resident",
    ):
        assert words in out
    assert "not a finished data set" in refused(*tiny(tmp_path / "none", tmp_path / "run"), "--dry-run")

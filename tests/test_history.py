"""What a run reported, read back."""

from pathlib import Path

from runs import start_line, train_line, write_run

from shards.report.html import page
from train.history import median, read_history
from train.report import make_sheet


def test_lines_that_are_broken_are_passed_over_and_counted(tmp_path: Path) -> None:
    write_run(tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "step": 110, "loss": NaN, "lr": "x"}\n[1]\n{"kind": "train", "step": "x"}\n{"kind": "tr')
    history = read_history(str(tmp_path))
    assert history.unreadable == 3 and history.train[-1]["loss"] is None and history.done == 110
    assert page(make_sheet([history]))


def test_the_first_line_after_a_start_is_warming_up(tmp_path: Path) -> None:
    speeds = {10: 1.0, 20: 30.0, 30: 1.0, 40: 30.0, 50: 30.0}
    lines = [train_line(step, tokens_per_s=speed) for step, speed in speeds.items()]
    history = read_history(str(write_run(tmp_path, [start_line(0), *lines[:2], start_line(20), *lines[2:]])))
    assert median(history, "tokens_per_s") == 30.0

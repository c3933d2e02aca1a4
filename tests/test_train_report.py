"""`train.report`: what a run wrote, read back, drawn and judged."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT
from datasets_of_rows import write_data_set
from launch import SMALL, run
from runs import eval_line, start_line, train_line, write_run

from shards.errors import UserError
from shards.report.html import page
from shards.report.sheet import Lines, Sheet
from shards.report.terminal import print_sheet
from train.history import read_history
from train.report import make_sheet, run_names

END = {"kind": "end", "step": 100, "time": 1101.0}


def sheet_of(*runs: Path) -> Sheet:
    return make_sheet([read_history(str(run)) for run in runs])


def told(run: Path) -> str:
    return " ".join(f"{finding.problem} {finding.remedy}" for finding in sheet_of(run).findings)


def facts(sheet: Sheet) -> dict[str, tuple[str, str]]:
    return {fact.name: (fact.value, fact.note) for section in sheet.sections for fact in section.facts}


def charts(sheet: Sheet) -> dict[str, Lines]:
    return {chart.title: chart for section in sheet.sections for chart in section.charts if isinstance(chart, Lines)}


def test_a_real_run_is_read_back(tmp_path: Path) -> None:
    write_data_set(tmp_path / "data", shard_rows=(90,))
    command = ("--data", tmp_path / "data", "--out", tmp_path / "run", *SMALL, "--steps", 6, "--model", "tiny")
    code, _, err = run(0, *command)
    assert code == 0, err
    code, out, err = run(0, tmp_path / "run", "--html", tmp_path / "run.html", module="train.report")
    assert code == 0 and not err and "6 of 6 steps" in out and "\x1b" not in out
    assert max(map(len, out.splitlines()[1:-1])) <= 80
    sheet = sheet_of(tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["mlm_loss"] for line in lines if line["kind"] == "train"]
    training, held_out = charts(sheet)["MLM loss, nats"].lines
    assert list(training.ys) == losses and list(training.xs) == [1, 2, 3, 4, 5, 6] and len(held_out.ys) == 1
    assert facts(sheet)["state"] == ("finished", "6 of 6 steps") and facts(sheet)["model"][0] == "tiny"
    assert (tmp_path / "run.html").read_text(encoding="utf8") == page(sheet)


def test_it_needs_no_torch() -> None:
    code = "import sys; import train.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_restarts_and_skipped_steps_stand_on_the_time_line(tmp_path: Path) -> None:
    first = [train_line(step, skipped=2 * (step == 20)) for step in (10, 20, 30)]
    gap = {"time": 5000.0}  # the machine was away
    second = [train_line(step) | {"time": 5000.0 + step - 30} for step in (40, 100)]
    lines = [start_line(0), *first, start_line(30, world_size=4) | gap, *second, eval_line(100) | {"time": 5071.0}]
    sheet = sheet_of(write_run(tmp_path, [*lines, END | {"time": 5072.0}]))
    for chart in charts(sheet).values():
        assert [(mark.step, mark.event.partition(" at ")[0]) for mark in chart.marks] == [
            (30, "restart"),
            (20, "skipped steps"),
        ]
        assert chart.last == 100
    found = facts(sheet)
    assert found["restarts"] == ("1", "after step 30") and found["processes"][0] == "2, 4" and found["skipped steps"][0] == "2"
    assert found["working time"][0] == "1:42"  # 30 s and 72 s


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([start_line(0), train_line(50)], "The run has not ended: after step 50 of 100"),
        ([start_line(0), train_line(50), {"kind": "stop", "step": 50}], "The run was stopped after step 50 of 100"),
        ([start_line(0), train_line(100, skipped=3), END], "not finite; 3 steps were skipped"),
        ([start_line(0), train_line(50, loss=None), train_line(100), END], "not finite"),
        ([start_line(0), *(train_line(s, data_wait_share=0.2) for s in (50, 100)), END], "spent 20% of its time waiting"),
        ([start_line(0), train_line(100), END], "no scores on held-out data"),
        ([start_line(0), train_line(100), eval_line(50), eval_line(100, mlm_loss=9.0), END], "The model overfits"),
        ([start_line(0), train_line(100), eval_line(100, mlm_loss=6.6), END], "no better than guessing by token frequency"),
        ([start_line(0), train_line(100), eval_line(100, nsp_accuracy=0.55), END], "NSP has learnt nothing yet"),
    ],
)
def test_what_looks_wrong_is_said(lines: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    assert message in told(write_run(tmp_path, lines))


def test_a_good_run_has_nothing_wrong(tmp_path: Path) -> None:
    assert told(write_run(tmp_path)) == ""


def test_runs_are_laid_over_each_other(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, lr=lr) for name, lr in (("a", 1e-3), ("b", 1e-4))]
    sheet = sheet_of(*runs)
    assert [line.name for line in charts(sheet)["learning rate"].lines] == ["a", "b"]
    names = [(line.name, line.group) for line in charts(sheet)["loss, nats"].lines]
    assert names == [("a, training", 0), ("a, held out", 0), ("b, training", 1), ("b, held out", 1)]
    assert facts(sheet)["lr"] == ("0.001, 0.0001", "")
    assert run_names(["x/run", "y/run"]) == ["x/run", "y/run"] and run_names(["x/a/", "y/b"]) == ["a", "b"]


def test_a_run_without_pairs_has_no_nsp(tmp_path: Path) -> None:
    lines = [start_line(0), train_line(100, nsp_loss=0.0), eval_line(100, nsp_loss=None, nsp_accuracy=None), END]
    sheet = sheet_of(write_run(tmp_path, lines))
    assert "NSP loss, nats" not in charts(sheet) and "held-out NSP accuracy" not in facts(sheet)


def test_a_long_run_is_drawn_with_few_points(tmp_path: Path) -> None:
    lines = [start_line(0, steps=5000), *(train_line(step, lr=float(step)) for step in range(1, 5001))]
    (line,) = charts(sheet_of(write_run(tmp_path, lines)))["learning rate"].lines
    assert 300 < len(line.xs) <= 400 and line.xs[-1] == 5000
    assert line.ys[0] == pytest.approx(sum(range(1, line.xs[0] + 1)) / line.xs[0])


# What a line or the settings of a run may hold after somebody edited them, or after a fault of a program.
ODD_VALUES: list[Any] = [float("nan"), float("inf"), -1, -1e29, 2**70, 1e29, 1e-320, "x", None, [], {}, True, 0, 0.5]


@pytest.mark.parametrize("value", ODD_VALUES, ids=repr)
def test_odd_values_in_a_run_are_reported_or_refused(value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [start_line(0), train_line(10), eval_line(20), start_line(20), train_line(30), eval_line(30), END]
    changed = [(number, name) for number, line in enumerate(lines) for name in line]
    for number, name in changed[ODD_VALUES.index(value) % 3 :: 3]:  # in a third of the places, for time
        run = write_run(tmp_path, [line | {name: value} if number == place else line for place, line in enumerate(lines)])
        (run / "run.json").write_text(json.dumps({"settings": {"lr": value, "model": value}}))
        with contextlib.suppress(UserError):
            sheet = sheet_of(run)
            print_sheet(sheet)
            assert page(sheet) and capsys.readouterr().out
    assert len(changed) > 40


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    good = write_run(tmp_path / "good")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "run.json").write_text('{"settings": {}}')
    (tmp_path / "file").write_text("")
    for path, message in (
        (tmp_path / "nothing", "no metrics.jsonl"),
        (tmp_path / "begun", "wait for its first step"),
        (write_run(tmp_path / "young", [start_line(0)]), "has no step yet"),
    ):
        with pytest.raises(UserError, match=message):
            read_history(str(path))
    for arguments, message in (
        ((tmp_path / "nothing",), "no run has reported anything here"),
        ((good, good), "named twice"),
        ((good, "--html", tmp_path / "file" / "x.html"), "cannot write it"),
        ((), "RUN_DIR"),
    ):
        code, out, err = run(0, *arguments, module="train.report")
        assert code == 2 and not out and err.count("\n") == 1 and message in err, err


def test_a_run_with_very_many_events_has_few_marks(tmp_path: Path) -> None:
    """Each restart and each line with skipped steps would be a mark: the page would be as large as the log, once per chart."""
    lines = [start_line(0), *(train_line(step) | {"skipped": 1} for step in range(1, 1001))]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    marks = charts(sheet_of(tmp_path))["learning rate"].marks
    assert len(marks) == 200 and [mark.step for mark in marks[:3]] == [1, 6, 11]
    assert marks[0].event == "skipped steps at step 1: 1, and 4 more events up to step 5"


def test_steady_lines_leave_out_the_first_after_each_of_many_starts(tmp_path: Path) -> None:
    lines = [line for step in range(0, 3000, 3) for line in (start_line(step), *map(train_line, (step + 1, step + 2)))]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert [line["step"] for line in read_history(str(tmp_path)).steady()] == list(range(2, 3000, 3))

"""A report in the terminal: curves of characters, escapes, and an output without Unicode."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT
from data_sets_with_ledger import write

from shards.report.sheet import Line, Lines, Section, Sheet
from shards.report.terminal import print_sheet


def printed(sheet: Sheet, capsys: pytest.CaptureFixture[str]) -> str:
    print_sheet(sheet)
    return capsys.readouterr().out


def test_a_curve_has_one_character_per_range_of_steps(capsys: pytest.CaptureFixture[str]) -> None:
    falling = Line("loss", [1, 50, 100], [8.0, 4.0, 0.0])
    chart = Lines("t", [falling, Line("gaps", [10, 100], [None, None])], "{:.1f}".format, 100, from_zero=True)
    lines = printed(Sheet("t", "p", "s", [], [Section("c", charts=[chart])]), capsys).splitlines()
    (curve,) = (line.split() for line in lines if line.strip().startswith("loss"))
    assert len(curve[1]) == 40 and curve[1][0] == "█" and curve[1][-1] == "▁" and curve[2:] == ["8.0", "→", "0.0"]
    assert curve[1] == "".join(sorted(curve[1], reverse=True))
    assert any("gaps" in line and "no number" in line for line in lines)


def test_nothing_that_a_terminal_obeys_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b[31mb\u202ec\nd"
    sheet = Sheet(hostile, hostile, hostile, [], [Section(hostile, hostile)], hostile)
    out = printed(sheet, capsys)
    assert out.count("a\\x1b[31mb\\u202ec d") == 6 and "\x1b" not in out and "\u202e" not in out


def test_a_terminal_without_unicode(tmp_path: Path) -> None:
    write(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "prep", "report", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 0 and done.stdout.decode("ascii").count("###") > 3

"""What a run reports: lines that a restart repeats are replaced, and TensorBoard's file never ends a run."""

import json
import math
import shutil
from pathlib import Path

import pytest
from datasets_of_rows import write_data_set
from launch import SMALL, metrics, run
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from shards.storage import StorageError
from train.loop import Trainer
from train.metrics import Board, MetricsFile, finite


def arguments(tmp_path: Path) -> tuple[object, ...]:
    write_data_set(tmp_path / "data")
    places = ("--data", tmp_path / "data", "--out", tmp_path / "run", "--model", "tiny")
    return (*places, *SMALL, "--steps", 6, "--checkpoint-every", 0)


def test_lines_of_steps_that_are_repeated_go_and_half_lines_too(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [{"kind": "train", "step": step} for step in (1, 2, 3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tra')
    file = MetricsFile(str(tmp_path), first_step=2)
    assert file.kept("train", 2) and not file.kept("train", 3)
    file.add({"kind": "train", "step": 3, "loss": None})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [*lines[:2], lines[2] | {"loss": None}]
    file.close()


def test_numbers_that_json_cannot_express_are_null() -> None:
    assert finite({"a": math.nan, "b": math.inf, "c": 1.0, "d": "x"}) == {"a": None, "b": None, "c": 1.0, "d": "x"}


def test_tensorboard_reads_what_is_written(tmp_path: Path) -> None:
    for first_step, value in ((0, 1.0), (1, 2.0)):
        board = Board(tmp_path / "board", first_step)
        board.add({"train/loss": value}, first_step + 1)
        board.close()
    events = [event for path in sorted((tmp_path / "board").iterdir()) for event in EventFileLoader(str(path)).Load()]
    values = [(e.step, v.tag, v.tensor.float_val[0]) for e in events if e.HasField("summary") for v in e.summary.value]
    assert values == [(1, "train/loss", 1.0), (2, "train/loss", 2.0)]
    assert [e.step for e in events if e.HasField("session_log")] == [1, 2], "what is later than that is repeated"


def test_an_output_folder_that_is_removed_while_it_trains_costs_its_lines_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = Trainer._after

    def remove(trainer: Trainer, num_done: int) -> None:
        if num_done == 3:
            shutil.rmtree(tmp_path / "run")
        after(trainer, num_done)

    monkeypatch.setattr(Trainer, "_after", remove)
    code, _, err = run(0, *arguments(tmp_path))
    assert code == 0 and "6 steps are done" in err and "Traceback" not in err, err
    assert list((tmp_path / "run").glob("checkpoints/step-0000000006/training.json"))


def test_a_board_that_cannot_be_written_is_given_up_aloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock: the disk is full for this file alone."""

    def fail(board: Board, values: object, step: int) -> None:
        raise StorageError("events.out: cannot write it: No space left on device")

    monkeypatch.setattr(Board, "add", fail)
    code, _, err = run(0, *arguments(tmp_path))
    assert code == 0 and err.count("warning: no more lines for TensorBoard: ") == 1, err
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, 7))

"""Checkpoints: whole or not there, kept by number, and a damaged one passed over aloud."""

import json
from pathlib import Path

import pytest
import torch

from shards import storage
from shards.errors import UserError
from train import checkpoint
from train.checkpoint import Checkpoint, DamagedError, Saver


def save(out: Path, steps: list[int], keep: int = 10) -> None:
    saver = Saver(str(out), keep)
    for step in steps:
        saver.begin(step, {"model.safetensors": {"w": torch.full((3,), float(step))}}, {"config.json": b"{}"}, {"made": "here"})
    saver.wait()


def value(found: Checkpoint) -> float:
    return float(found.tensors("model.safetensors")["w"][0])


def load(out: Path) -> tuple[int, list[str]]:
    said: list[str] = []
    found = checkpoint.newest(str(out), value, said.append)
    assert found is not None and found[1] == found[0].step
    return found[0].step, said


def test_what_is_saved_is_loaded_and_the_newest_few_are_kept(tmp_path: Path) -> None:
    save(tmp_path, [5, 10, 15, 20], keep=2)
    assert load(tmp_path) == (20, [])
    assert [Path(url).name for url in checkpoint.find_all(str(tmp_path))] == ["step-0000000020", "step-0000000015"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-0000000015", "step-0000000020"]


def test_tensors_are_those_of_the_moment(tmp_path: Path) -> None:
    tensor, saver = torch.ones(1000), Saver(str(tmp_path), 1)
    saver.begin(1, {"model.safetensors": {"w": tensor}}, {}, {})
    tensor.zero_()
    saver.wait()
    found = checkpoint.open_checkpoint(checkpoint.find_all(str(tmp_path))[0])
    assert (found.tensors("model.safetensors")["w"] == 1).all()


@pytest.mark.parametrize("name", ["model.safetensors", "training.json"])
@pytest.mark.parametrize("damage", ["flipped", "short", "gone", "empty"])
def test_a_damaged_newest_one_falls_back_aloud(name: str, damage: str, tmp_path: Path) -> None:
    save(tmp_path, [5, 10])
    path = tmp_path / "checkpoints" / "step-0000000010" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    contents = {"flipped": bytes(data), "short": bytes(data[:-1]), "empty": b""}
    path.unlink() if damage == "gone" else path.write_bytes(contents[damage])
    step, said = load(tmp_path)
    assert step == 5
    if (name, damage) != ("training.json", "gone"):  # without its record it never was one
        assert len(said) == 1 and "damaged checkpoint skipped" in said[0] and "step-0000000010" in said[0]
    save(tmp_path, [10], keep=2)
    assert load(tmp_path) == (10, []), "and is written anew when the run gets there again"


def test_when_all_are_damaged_nothing_is_begun_anew(tmp_path: Path) -> None:
    save(tmp_path, [5, 10])
    for path in tmp_path.rglob("model.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="all 2 checkpoints are damaged"):
        load(tmp_path)


def test_a_damaged_newer_one_never_costs_the_good_one(tmp_path: Path) -> None:
    save(tmp_path, [5, 10])
    (tmp_path / "checkpoints" / "step-0000000010" / "model.safetensors").write_bytes(b"")
    save(tmp_path, [7], keep=1)
    assert load(tmp_path)[0] == 7


def test_an_unfinished_one_is_no_checkpoint_and_is_cleared_away_with_nothing_else(tmp_path: Path) -> None:
    save(tmp_path, [5, 10])
    (tmp_path / "checkpoints" / "step-0000000010" / "training.json").unlink()
    foreign = tmp_path / "checkpoints" / "notes" / "mine.txt"
    storage.publish(str(foreign), b"keep")
    checkpoint.remove_unfinished(str(tmp_path))
    assert load(tmp_path) == (5, []) and foreign.exists()
    assert not (tmp_path / "checkpoints" / "step-0000000010" / "model.safetensors").exists()


def test_no_checkpoint_is_none_and_no_run_is_an_error(tmp_path: Path) -> None:
    assert checkpoint.newest(str(tmp_path), value, print) is None
    with pytest.raises(UserError, match="no checkpoint and no run with one"):
        checkpoint.locate(str(tmp_path), value, print)


def test_a_record_of_another_version_is_refused_not_passed_over(tmp_path: Path) -> None:
    save(tmp_path, [5])
    path = tmp_path / "checkpoints" / "step-0000000005" / "training.json"
    record = json.loads(path.read_text()) | {"version": 2}
    del record["sha256"]
    path.write_text(json.dumps(record | {"sha256": checkpoint.fingerprint(record)}))
    with pytest.raises(UserError, match="version is 2") as caught:
        load(tmp_path)
    assert not isinstance(caught.value, DamagedError)


def test_what_fails_in_the_thread_is_told(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    saver = Saver(str(tmp_path), 1)
    saver.begin(1, {}, {"config.json": b"{}"}, {})
    with pytest.raises(UserError, match="cannot"):
        saver.wait()
    saver.check()

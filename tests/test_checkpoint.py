"""Checkpoints: whole or not there, kept by number, and a damaged one passed over aloud."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards import storage
from shards.errors import UserError
from shards.manifest import fingerprint
from train import checkpoint
from train.checkpoint import MODEL, OPTIMIZER, Checkpoint, DamagedError, Saver, copy_tensors
from train.export import export

RECORD = {
    "position": 0,
    "data_fingerprint": "d",
    "tokenizer_fingerprint": "t",
    "order": {"version": 1},
    "mask_prob": None,
    "model": {},
    "settings": {},
}


def save(out: Path, steps: list[int], keep: int = 10) -> None:
    saver = Saver(str(out), keep)
    for step in steps:
        tensors = {"w": torch.full((3,), float(step))}
        saver.begin(step, {MODEL: tensors, OPTIMIZER: {"w.step": torch.zeros(1)}}, {"config.json": b"{}"}, RECORD)
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
    saver.begin(1, {MODEL: {"w": tensor}, OPTIMIZER: {}}, {"config.json": b"{}"}, RECORD)
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


def forge(out: Path, **changes: object) -> None:
    """Changes fields of a checkpoint's record, with the right sha256, as a stranger would."""
    (path,) = out.glob("checkpoints/*/training.json")
    record = json.loads(path.read_text()) | changes
    record = {name: value for name, value in record.items() if value != "GONE" and name != "sha256"}
    path.write_text(json.dumps(record | {"sha256": fingerprint(record)}))


# Other loaders run them, or prefer them, where they find them beside an exported model.
FOREIGN_FILES = ("pytorch_model.bin", "modeling_bert.py", "generation_config.json", "model.safetensors.index.json")


@pytest.mark.parametrize(
    "name", ["../../planted.sh", "/tmp/planted.sh", "a/b", "..", ".bashrc", "", "training.json", "x\ny", *FOREIGN_FILES]
)
def test_a_file_name_of_a_stranger_never_becomes_a_path(name: str, tmp_path: Path) -> None:
    run, out = tmp_path / "dl" / "run", tmp_path / "home" / "models" / "mine"
    save(run, [5])
    (run / "planted.sh").write_bytes(b"echo planted")
    (path,) = run.glob("checkpoints/*/training.json")
    files = json.loads(path.read_text())["files"]
    info = {"bytes": 12, "sha256": hashlib.sha256(b"echo planted").hexdigest()}
    forge(run, files=files | {name: info})
    with pytest.raises(UserError, match="not a file name of a checkpoint"):
        export(str(run), str(out))
    assert not (tmp_path / "home").exists()


def test_what_is_no_file_of_tensors_is_not_exported(tmp_path: Path) -> None:
    save(tmp_path / "run", [5])
    (path,) = tmp_path.glob("run/checkpoints/*/training.json")
    (path.parent / MODEL).write_bytes(b"garbage")
    info = {"bytes": 7, "sha256": hashlib.sha256(b"garbage").hexdigest()}
    forge(tmp_path / "run", files=json.loads(path.read_text())["files"] | {MODEL: info})
    with pytest.raises(UserError, match="damaged"):
        export(str(tmp_path / "run"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


FIELDS = ("step", "position", "data_fingerprint", "tokenizer_fingerprint", "order", "model", "settings", "files", "version")
ODD = (None, True, -3, 2**70, 1.5, "x", [], {}, [1], {"a": 1}, "GONE")


@pytest.mark.parametrize("field", FIELDS)
def test_odd_fields_with_the_right_sha256_are_refused_in_a_line(field: str, tmp_path: Path) -> None:
    save(tmp_path, [5])
    (path,) = tmp_path.glob("checkpoints/*/training.json")
    original = path.read_bytes()
    fits = {"order": dict, "model": dict, "settings": dict}.get(field, str if "fingerprint" in field else None)
    for value in ODD:
        if fits is not None and isinstance(value, fits) and value != "GONE":
            continue
        path.write_bytes(original)
        forge(tmp_path, **{field: value})
        with pytest.raises(UserError) as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value) and field in str(caught.value), f"{field}: {value!r}"


@given(data=st.data())
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_anywhere_in_a_checkpoint_is_one_error_of_ours(data: st.DataObject, tmp_path: Path) -> None:
    """A few bytes of any of its files are changed; a record gets the sha256 that it then needs, half of the time."""
    out = tmp_path / "run"
    if not out.exists():
        save(out, [5])
    folder = out / "checkpoints" / "step-0000000005"
    path = folder / data.draw(st.sampled_from(["training.json", MODEL, OPTIMIZER, "config.json"]))
    original = path.read_bytes()
    content, record = bytearray(original), (folder / "training.json").read_bytes()
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    if path.name != "training.json" and data.draw(st.booleans()):
        files = json.loads(record)["files"]
        forge(out, files=files | {path.name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}})
    try:
        checkpoint.newest(str(out), lambda saved: [saved.tensors(MODEL), saved.tensors(OPTIMIZER)], lambda line: None)
    except UserError as error:
        assert "\n" not in str(error)
    finally:
        path.write_bytes(original)
        (folder / "training.json").write_bytes(record)


def test_tensors_of_another_model_are_refused_before_any_is_copied() -> None:
    targets = {"a": torch.zeros(2), "b": torch.zeros(3)}
    for values, message in (({"a": torch.ones(2)}, "b is missing"), ({"a": torch.ones(2), "b": torch.ones(4)}, r"shape \[4\]")):
        with pytest.raises(UserError, match=message):
            copy_tensors(targets, values, "m")
    assert not targets["a"].any()
    copy_tensors(targets, {"a": torch.ones(2), "b": torch.ones(3), "more": torch.ones(1)}, "m")
    assert targets["a"].all() and targets["b"].all()


def test_a_model_that_is_larger_than_the_memory_is_not_read(tmp_path: Path) -> None:
    """Its record agrees with its size, which a hole in the file makes for nothing."""
    save(tmp_path, [5])
    place = tmp_path / "checkpoints" / "step-0000000005"
    with open(place / MODEL, "ab") as file:
        file.truncate(1 << 40)
    record = json.loads((place / "training.json").read_text())
    del record["sha256"]
    record["files"][MODEL]["bytes"] = 1 << 40
    (place / "training.json").write_text(json.dumps(record | {"sha256": fingerprint(record)}))
    with pytest.raises(UserError, match=r"model.safetensors: reading it takes about 2.2 TB of memory"):
        load(tmp_path)

"""All commands x all foreign inputs: what cannot be used ends in one line and an exit code, never in a traceback."""

import json
import shutil
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from commands import call, run_prep
from launch import tiny
from strangers import change_rows, manifest_of, put_shard, seal

from shards.errors import UserError
from shards.schema import Rows
from train.stream import ShardStream

Damage = Callable[[Path], None]
Done = subprocess.CompletedProcess[str]
DEEP = "[" * 100_000
GARBAGE = bytes(range(256)) * 40


def with_content(name: str, content: bytes | str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


def without(name: str) -> Damage:
    def damage(folder: Path) -> None:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()

    return damage


def with_hole(name: str) -> Damage:
    """A file that claims a terabyte without having it."""

    def damage(folder: Path) -> None:
        with open(folder / name, "ab") as file:
            file.truncate(1 << 40)

    return damage


def with_value(name: str, value: Any, *keys: Any) -> Damage:
    """A JSON file with one value changed."""

    def damage(folder: Path) -> None:
        whole = json.loads((folder / name).read_text())
        place = whole
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        (folder / name).write_text(json.dumps(whole))

    return damage


def files_of(name: str) -> dict[str, Damage]:
    """What can be wrong with any JSON file."""
    return {
        f"no {name}": without(name),
        f"empty {name}": with_content(name, ""),
        f"garbage in {name}": with_content(name, GARBAGE),
        f"half {name}": with_content(name, '{"a": {'),
        f"list in {name}": with_content(name, "[]"),
        f"number in {name}": with_content(name, "7"),
        f"deep {name}": with_content(name, DEEP),
        f"hole in {name}": with_hole(name),
    }


SHARD = ("splits", "train", "shards", 0)
DATA_SETS: dict[str, Damage] = {
    **files_of("manifest.json"),
    "other version": with_value("manifest.json", 99, "format_version"),
    "version that is no number": with_value("manifest.json", [1], "format_version"),
    "format of nobody": with_value("manifest.json", "csv", "settings", "format"),
    "no settings": with_value("manifest.json", None, "settings"),
    "splits that are a text": with_value("manifest.json", "train", "splits"),
    "path above the folder": with_value("manifest.json", "../../train/a.parquet", *SHARD, "path"),
    "absolute path": with_value("manifest.json", "/etc/passwd", *SHARD, "path"),
    "path that is a number": with_value("manifest.json", 3, *SHARD, "path"),
    "rows below zero": with_value("manifest.json", -1, *SHARD, "rows"),
    "rows beyond all bounds": with_value("manifest.json", 10**30, *SHARD, "rows"),
    "rows that are true": with_value("manifest.json", True, *SHARD, "rows"),
    "rows that are infinite": with_value("manifest.json", float("inf"), *SHARD, "rows"),
    "row groups of nothing": with_value("manifest.json", [[0, 0, 0]], *SHARD, "row_groups"),
    "no shards": without("train"),
    "vocabulary of a text": with_value("manifest.json", "many", "tokenizer", "vocab_size"),
    "special ids above the vocabulary": with_value("manifest.json", 10**9, "tokenizer", "special_ids", "pad"),
}
CHECKPOINTS: dict[str, Damage] = {
    **files_of("training.json"),
    "step that is a text": with_value("training.json", "six", "step"),
    "files above the folder": with_value("training.json", {"../../model.safetensors": {"bytes": 1, "sha256": ""}}, "files"),
    "files that are a list": with_value("training.json", ["model.safetensors"], "files"),
    "no model": without("model.safetensors"),
    "garbage for a model": with_content("model.safetensors", GARBAGE),
    "hole in a model": with_hole("model.safetensors"),
    "half a header": with_content("model.safetensors", (2**40).to_bytes(8, "little") + b"{"),
}
CONFIGS: dict[str, Damage] = {
    **files_of("config.json"),
    "another architecture": with_content("config.json", '{"model_type": "gpt2"}'),
    "layers that are a text": with_value("config.json", "two", "num_hidden_layers"),
    "heads that do not divide": with_value("config.json", 7, "num_attention_heads"),
}
RUNS: dict[str, Damage] = {
    **files_of("run.json"),
    "no metrics": without("metrics.jsonl"),
    "hole in metrics": with_hole("metrics.jsonl"),
    "garbage for metrics": with_content("metrics.jsonl", GARBAGE),
    "a list for a line": with_content("metrics.jsonl", "[1]\n"),
    "deep metrics": with_content("metrics.jsonl", DEEP),
    "step that is true": with_content("metrics.jsonl", '{"kind": "train", "step": true, "time": 1}\n'),
    "step beyond all bounds": with_content("metrics.jsonl", '{"kind": "train", "step": 1e29, "time": 1}\n'),
    "time that is a text": with_content("metrics.jsonl", '{"kind": "train", "step": 1, "time": "now"}\n'),
}


def with_rows(change: Callable[[Rows], None]) -> Damage:
    return lambda folder: change_rows(folder, change)


def with_flipped_bits(folder: Path) -> None:
    shard = next(iter(sorted((folder / "train").iterdir())))
    data = bytearray(shard.read_bytes())
    for at in range(64, len(data), 64):
        data[at] ^= 1
    shard.write_bytes(data)


def with_tokenizer(change: Callable[[Any], None]) -> Damage:
    """Another tokenizer.json, with every digest that fits."""

    def damage(folder: Path) -> None:
        place, manifest = folder / "tokenizer" / "tokenizer.json", manifest_of(folder)
        definition = json.loads(place.read_text())
        change(definition)
        place.write_text(json.dumps(definition))
        digest = sha256(place.read_bytes()).hexdigest()
        manifest["tokenizer"] |= {"fingerprint": digest, "files": manifest["tokenizer"]["files"] | {place.name: digest}}
        seal(folder, manifest)

    return damage


def with_garbage_for_a_shard(folder: Path) -> None:
    put_shard(folder, manifest_of(folder), GARBAGE)


# Their digests fit, as a stranger would make them, but for the flipped bits.
SHARDS: dict[str, Damage] = {
    "flipped bits": with_flipped_bits,
    "lengths that do not sum up": with_rows(lambda rows: rows.sequence_lengths.fill(32)),
    "ids beyond the vocabulary": with_rows(lambda rows: rows.input_ids.fill(65_535)),
    "garbage for a shard": with_garbage_for_a_shard,
}
PADDING = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
TOKENIZERS: dict[str, Damage] = {
    "a padding of a billion": with_tokenizer(
        lambda tokenizer: tokenizer.update(padding=PADDING | {"pad_to_multiple_of": None})
    ),
    "an id of 2^31": with_tokenizer(lambda tokenizer: tokenizer["model"]["vocab"].update(zzz=2**31)),
    "no model": with_tokenizer(lambda tokenizer: tokenizer.pop("model")),
}


def is_one_line(done: Done, codes: tuple[int, ...] = (2,)) -> None:
    """Exit code 2 with one line that begins with the command's name, or another of `codes` without one."""
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    assert done.returncode in codes, done.stderr or done.stdout
    errors = [line for line in done.stderr.splitlines() if ": error: " in line]
    assert len(errors) == int(done.returncode == 2), done.stderr
    assert not errors or (done.stderr.splitlines()[-1] == errors[0] and len(errors[0]) < 2000)


def command_on(command: str, data: Path, trained: Path, folder: Path) -> Done:
    """A command that reads the data set."""
    if command in ("verify", "show", "report"):
        return run_prep(command, data)
    if command == "page":
        return run_prep("report", data, "--html", folder / "page.html")
    if command == "evaluate":
        return call("train.evaluate", ("--data", data, "--checkpoint", trained))
    return call("train.__main__", (*tiny(data, folder / "run", epochs=1), *(["--dry-run"] if command == "dry run" else [])))


@pytest.mark.parametrize("command", ["verify", "show", "report", "page", "train", "dry run", "evaluate"])
@pytest.mark.parametrize("name", DATA_SETS)
def test_a_data_set(command: str, name: str, random_data: Path, trained: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(random_data, tmp_path / "data"))
    DATA_SETS[name](data)
    done = command_on(command, data, trained, tmp_path)
    is_one_line(done, (1, 2) if command == "verify" else (2,))
    assert done.returncode == 2 or done.stdout.strip(), "verify lists what is wrong"
    assert not (tmp_path / "page.html").exists() and not list((tmp_path).glob("run/checkpoints/*"))


@pytest.mark.parametrize("command", ["verify", "show", "report", "train", "evaluate"])
@pytest.mark.parametrize("name", SHARDS)
def test_a_shard(command: str, name: str, random_data: Path, trained: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(random_data, tmp_path / "data"))
    SHARDS[name](data)
    done = command_on(command, data, trained, tmp_path)
    is_one_line(done, (1,) if command == "verify" else (2,))
    assert "train/000000-0000.parquet" in (done.stdout if command == "verify" else done.stderr)


@pytest.mark.parametrize("command", ["verify", "show", "report"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_of_a_data_set(command: str, name: str, random_data: Path, trained: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(random_data, tmp_path / "data"))
    TOKENIZERS[name](data)
    done = command_on(command, data, trained, tmp_path)
    is_one_line(done, (1,) if command == "verify" else (2,))
    assert "tokenizer.json" in (done.stdout if command == "verify" else done.stderr)


@pytest.mark.parametrize("name", [*DATA_SETS, *SHARDS])
def test_a_stream(name: str, random_data: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(random_data, tmp_path / "data"))
    (DATA_SETS | SHARDS)[name](data)
    with pytest.raises(UserError) as caught:
        list(ShardStream(str(data), global_batch=12, micro_batch=3, threads=1))
    assert "\n" not in str(caught.value) and str(data) in str(caught.value)


@pytest.mark.parametrize("command", ["evaluate", "export"])
@pytest.mark.parametrize("name", [*CHECKPOINTS, *CONFIGS])
def test_a_checkpoint(command: str, name: str, random_data: Path, trained: Path, tmp_path: Path) -> None:
    newest = sorted((trained / "checkpoints").iterdir())[-1]
    folder = Path(shutil.copytree(newest, tmp_path / "checkpoint"))
    (CHECKPOINTS | CONFIGS)[name](folder)
    places = ("--data", random_data) if command == "evaluate" else ("--out", tmp_path / "model")
    is_one_line(call(f"train.{command}", ("--checkpoint", folder, *places)))
    assert not (tmp_path / "model" / "config.json").exists()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_to_begin_with(name: str, random_data: Path, trained: Path, tmp_path: Path) -> None:
    newest = sorted((trained / "checkpoints").iterdir())[-1]
    folder = Path(shutil.copytree(newest, tmp_path / "model"))
    CONFIGS[name](folder)
    is_one_line(call("train.__main__", (*tiny(random_data, tmp_path / "run", epochs=1), "--model", folder)))


@pytest.mark.parametrize("name", RUNS)
def test_a_run(name: str, trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    RUNS[name](folder)
    harmless = name in ("no run.json", "time that is a text")  # a report needs neither
    is_one_line(call("train.report", (folder, "--html", tmp_path / "page.html")), (0, 2) if harmless else (2,))


SUFFIXES = (
    ".txt.gz",
    ".txt.bz2",
    ".txt.xz",
    ".txt.zst",
    ".jsonl",
    ".jsonl.gz",
    ".json.zst",
    ".parquet",
    ".tar",
    ".tar.gz",
    ".warc",
    ".warc.gz",
)


@pytest.mark.parametrize(
    "content",
    [b"", GARBAGE, b"\x1f\x8b\x08\x00" + GARBAGE, b"PAR1" + GARBAGE + b"PAR1", b"\x28\xb5\x2f\xfd" + GARBAGE],
    ids=["empty", "garbage", "gzip", "Parquet", "zstd"],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_corpus(suffix: str, content: bytes, vocabulary: Path, tmp_path: Path) -> None:
    (tmp_path / f"a{suffix}").write_bytes(content)
    places = ("--out", tmp_path / "out", "--scratch", tmp_path / "scratch", "--tokenizer", vocabulary)
    is_one_line(run_prep("build", "--corpus", tmp_path / f"a{suffix}", *places))
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("content", ["", "[]", "7", '{"model": {', '{"model": {}}', DEEP, GARBAGE], ids=range(7))
def test_a_tokenizer_and_a_configuration(content: bytes | str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One text. And more.\nAnother text. It has two sentences.\n")
    for name in ("tokenizer.json", "vocab.txt", "build.toml"):
        with_content(name, content)(tmp_path)
    places = ("--corpus", tmp_path / "a.txt", "--out", tmp_path / "out", "--scratch", tmp_path / "scratch")
    for flags in (
        ("--tokenizer", tmp_path / "tokenizer.json"),
        ("--tokenizer", tmp_path / "vocab.txt"),
        ("--tokenizer", tmp_path),
    ):
        is_one_line(run_prep("build", *places, *flags))
    if content:
        is_one_line(run_prep("build", *places, "--config", tmp_path / "build.toml"))

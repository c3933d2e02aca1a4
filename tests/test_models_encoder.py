"""Every family through the whole product: trained, resumed, scored, exported, and loaded by plain transformers."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run_prep
from corpora import speeches
from datasets_of_rows import MAX_SEQ_LEN, write_data_set
from launch import SMALL, RankProcesses, run, torchrun, weights, workers
from rows_of_ids import SPECIAL, VOCAB_SIZE
from small_encoders import small_encoder, write_config
from torch import nn
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel, Trainer, TrainingArguments, pipeline

from prep.tokens.tokenizer_source import load_tokenizer
from shards.dataset import open_data_set
from shards.schema import Rows
from train.checkpoint import RECORD
from train.data.batch import pad_batch
from train.models.config import DROPOUTS, dropout_of, set_dropout
from train.models.encoder import change_dropout, change_rope_theta, rope_theta_of
from train.models.families import FAMILIES, max_positions, num_token_types

families = pytest.mark.parametrize("model_type", FAMILIES)


@pytest.fixture(scope="module")
def masks_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set without pairs."""
    folder = tmp_path_factory.mktemp("masks") / "data"
    write_data_set(folder, pairs=False)
    return folder


def arguments(model_type: str, masks_only: Path, pairs: Path, tmp_path: Path) -> tuple[object, ...]:
    data = pairs if FAMILIES[model_type].pair_head else masks_only
    model = write_config(tmp_path / "config.json", model_type)
    return "--data", data, "--model", model, "--steps", 4, *SMALL, "--dropout", 0.1, "--checkpoint-every", 2


@families
def test_a_family_trains_resumes_scores_exports_and_loads(
    model_type: str, masks_only: Path, random_data: Path, tmp_path: Path
) -> None:
    flags = arguments(model_type, masks_only, random_data, tmp_path)
    code, _, err = run(0, *flags, "--out", tmp_path / "run")
    assert code == 0, err
    whole = weights(tmp_path / "run", 4)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-0000000004")
    code, _, err = run(0, *flags, "--out", tmp_path / "run")
    assert code == 0 and "resuming from step 2" in err and weights(tmp_path / "run", 4) == whole, err
    code, out, err = run(0, "--data", flags[1], "--checkpoint", tmp_path / "run", "--json", module="train.evaluate")
    assert code == 0, err
    scores = json.loads(out)
    code, _, err = run(0, "--checkpoint", tmp_path / "run", "--out", tmp_path / "model", module="train.export")
    assert code == 0, err
    check_exported(tmp_path / "model", Path(str(flags[1])), scores)


@pytest.mark.parametrize("model_type", ["modernbert", "eurobert", "nomic_bert"])
def test_another_base_of_rotary_positions_is_that_of_a_model_made_with_it(model_type: str) -> None:
    encoder = small_encoder(model_type).eval()
    before = hidden_states(encoder)
    base = rope_theta_of(encoder.config)
    change_rope_theta(encoder, 3 * base)
    assert rope_theta_of(encoder.config) == 3 * base and not torch.allclose(hidden_states(encoder), before, atol=1e-4)
    other = type(encoder)(type(encoder.config).from_dict(encoder.config.to_dict())).eval()
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(hidden_states(encoder), hidden_states(other))
    change_rope_theta(encoder, base)
    assert torch.equal(hidden_states(encoder), before)


def hidden_states(encoder: PreTrainedModel, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    ids = torch.arange(len(SPECIAL), len(SPECIAL) + 20)[None]
    with torch.no_grad():
        states: torch.Tensor = encoder.base_model(ids)[0]
    return states


@families
def test_another_dropout_is_that_of_a_model_made_with_it(model_type: str) -> None:
    def made_with(dropout: float) -> PreTrainedModel:
        encoder = small_encoder(model_type)
        set_dropout(encoder.config, dropout)
        return small_encoder(model_type, **{name: value for name, value in vars(encoder.config).items() if name in DROPOUTS})

    encoder, other = made_with(0.3), made_with(0.2)
    change_dropout(encoder, 0.2)
    assert dropout_of(encoder.config) == 0.2
    assert torch.equal(hidden_states(encoder, seed=1), hidden_states(other, seed=1))
    assert not torch.equal(hidden_states(encoder, seed=1), hidden_states(encoder, seed=2)), "it drops something"


def check_exported(folder: Path, data: Path, scores: dict[str, Any]) -> None:
    """Plain transformers loads the folder whole, and its model has the scores that `train.evaluate` printed."""
    model, report = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"], report
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.model_max_length == max_positions(model.config)
    assert ("token_type_ids" in tokenizer("w7 w8")) == (num_token_types(model.config) > 1)
    best = pipeline("fill-mask", model=model, tokenizer=tokenizer)(f"w7 {tokenizer.mask_token} w9")
    assert len(best) == 5 and all(0.0 < answer["score"] <= 1.0 for answer in best)
    rows = held_out(data)
    batch = pad_batch(rows, MAX_SEQ_LEN, SPECIAL["pad"], pair_label="", token_types=num_token_types(model.config) > 1)
    labels = batch.pop("labels").view(-1)
    with torch.no_grad():
        logits = model.eval()(**batch).logits
    assert nn.functional.cross_entropy(logits.view(-1, VOCAB_SIZE), labels).item() == pytest.approx(
        scores["mlm_loss"], abs=1e-4
    )


def held_out(data: Path) -> Rows:
    from shards.dataset import decode

    manifest = open_data_set(str(data))
    (shard,) = manifest.splits["eval"].shards
    return decode(manifest, "eval", shard, (data / shard.path).read_bytes())


@pytest.mark.parametrize("kind", ["roberta", "albert"])
def test_every_family_exports_any_tokenizer(kind: str, tokenizer_folders: dict[str, Path], tmp_path: Path) -> None:
    """transformers chooses the class by the files of the model: whichever it is, the ids are those of the data."""
    prepared = load_tokenizer(str(tokenizer_folders[kind]), cased=False)
    prepared.save(str(tmp_path))
    for model_type in FAMILIES:
        write_config(tmp_path / "config.json", model_type)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        for text in ("Fellow-Citizens of the  Senate,\n and the House", "größe naïve 漢字 😀 don't", " leading blank"):
            assert tokenizer(text)["input_ids"] == prepared.reference.encode(text).ids, model_type
        assert tokenizer.mask_token_id == prepared.special_ids["mask"]


@families
def test_the_stream_feeds_transformers_trainer(model_type: str, masks_only: Path, random_data: Path, tmp_path: Path) -> None:
    from streams import stream

    model = small_encoder(model_type)
    label = {"albert": "sentence_order_label"}.get(model_type, "next_sentence_label")
    data = random_data if FAMILIES[model_type].pair_head else masks_only
    batches = stream(data, pair_label=label, token_types=num_token_types(model.config) > 1)
    options = TrainingArguments(output_dir=str(tmp_path), max_steps=2, report_to=[], use_cpu=True, save_strategy="no")
    trainer = Trainer(model=model, args=options, train_dataset=batches, data_collator=lambda items: items[0])
    assert 0.0 < trainer.train().training_loss < 20.0


@pytest.mark.long
def test_a_run_of_modernbert_under_torchrun_is_killed_and_resumes_bit_for_bit(masks_only: Path, tmp_path: Path) -> None:
    flags = ("--data", masks_only, "--model", "modernbert-tiny", "--steps", 12, *SMALL, "--checkpoint-every", 2)
    killed = torchrun(2, *flags, "--out", tmp_path / "run")
    wait_for_checkpoint(killed, tmp_path / "run")
    for rank in workers(killed):
        rank.kill()
    killed.communicate()
    assert killed.returncode == 1
    for out in ("run", "whole"):
        code, _, err = run(2, *flags, "--out", tmp_path / out)
        assert code == 0 and ("resuming from step" in err) == (out == "run"), err
    assert weights(tmp_path / "run", 12) == weights(tmp_path / "whole", 12)


def wait_for_checkpoint(process: Any, out: Path) -> None:
    while process.poll() is None and not list(out.glob(f"checkpoints/step-*/{RECORD}")):
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()


@pytest.mark.long
@families
def test_every_family_on_two_processes_killed_and_resumed(
    model_type: str, masks_only: Path, random_data: Path, tmp_path: Path
) -> None:
    flags = arguments(model_type, masks_only, random_data, tmp_path)
    code, _, err = run(2, *flags, "--out", tmp_path / "whole")
    assert code == 0, err
    killed = RankProcesses(2, *flags, "--out", tmp_path / "run")
    wait_for_checkpoint(killed, tmp_path / "run")
    for rank in killed.ranks:
        rank.kill()
    killed.communicate()
    code, _, err = run(2, *flags, "--out", tmp_path / "run")
    assert code == 0 and weights(tmp_path / "run", 4) == weights(tmp_path / "whole", 4), err


@pytest.mark.long
def test_rows_of_8192_tokens_end_to_end(tmp_path: Path) -> None:
    """Built, rehearsed, trained and scored; two documents of three are longer than a row."""
    (tmp_path / "texts").mkdir()
    for number, path in enumerate(speeches()[::12][:20]):
        (tmp_path / "texts" / path.name).write_text(path.read_text(encoding="utf8")[: 2000 if number % 3 == 0 else 24_000])
    places = ("--out", tmp_path / "data", "--scratch", tmp_path / "scratch", "--tokenizer", "train-bpe:300")
    rows = ("--pairing", "document", "--document", "file", "--max-seq-len", 8192, "--pack-to", 8192)
    built = run_prep("build", "--corpus", tmp_path / "texts", *places, *rows)
    assert built.returncode == 0, built.stderr
    total = open_data_set(str(tmp_path / "data")).splits["train"].totals()
    assert total["max_sequence_tokens"] == total["max_row_tokens"] == 8192 and total["max_sequences_per_row"] > 1
    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 1, "intermediate_size": 16}
    changes = {"vocab_size": 300, "local_attention": 128, "max_position_embeddings": 8192}
    model = write_config(tmp_path / "config.json", "modernbert", **sizes, **changes)
    flags = ("--data", tmp_path / "data", "--model", model, "--out", tmp_path / "run", "--global-batch", 2, "--micro-batch", 1)
    code, out, err = run(0, *flags, "--steps", 2, "--dry-run")
    assert code == 0 and "rows of up to 8192 tokens" in out and "resident at most" in out, err
    code, out, err = run(0, *flags, "--steps", 2)
    assert code == 0 and "held out: " in out + err, err
    code, out, err = run(
        0,
        "--data",
        tmp_path / "data",
        "--checkpoint",
        tmp_path / "run",
        "--rows",
        2,
        "--micro-batch",
        1,
        module="train.evaluate",
    )
    assert code == 0 and "held out: 2 rows" in out, err

"""The stream by itself: for any loop, and for transformers' Trainer."""

import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import bert
from commands import ROOT
from datasets_of_rows import MAX_SEQ_LEN, write_data_set
from rows_of_ids import SPECIAL
from streams import NAMES, keys, stream
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from shards.errors import UserError
from train.data.batch import PackedBatch
from train.device import attention
from train.models.packed import PackedEncoder


def test_padded_batches_have_transformers_names_and_types(tmp_path: Path) -> None:
    write_data_set(tmp_path)
    batches = list(stream(tmp_path))
    assert len(batches) == 24 and stream(tmp_path).num_steps == 6
    for batch in batches:
        assert set(batch) == NAMES and all(values.dtype == torch.int64 for values in batch.values())
        assert batch["input_ids"].shape == batch["labels"].shape and batch["input_ids"].shape[1] == MAX_SEQ_LEN
        assert batch["next_sentence_label"].shape == (len(batch["input_ids"]),)
        shown = batch["input_ids"][batch["labels"] >= 0]
        assert (shown == SPECIAL["mask"]).float().mean() > 0.3 and (batch["labels"] != SPECIAL["mask"]).all()
    plain = write_data_set(tmp_path / "plain", pairs=False)
    assert set(next(iter(stream(tmp_path / "plain")))) == NAMES - {"next_sentence_label"}
    assert len(keys(batches)) == plain.splits["train"].totals()["sequences"]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_ranks_share_every_sequence(ranks: int, tmp_path: Path) -> None:
    write_data_set(tmp_path)
    shares = [keys(stream(tmp_path, rank=rank, world_size=ranks)) for rank in range(ranks)]
    assert sorted(key for share in shares for key in share) == sorted(keys(stream(tmp_path)))


@pytest.mark.parametrize("after", [0, 1, 3, 4, 9, 23, 24])
def test_a_state_is_where_the_stream_goes_on(after: int, tmp_path: Path) -> None:
    write_data_set(tmp_path)
    whole = list(stream(tmp_path))
    first = stream(tmp_path)
    taken = list(islice(first, after))
    second = stream(tmp_path)
    second.load_state_dict(first.state_dict())
    assert len(str(first.state_dict())) < 1024
    rest = list(second)
    assert keys(taken + rest) == keys(whole)
    assert keys(second) == keys(whole), "behind the end, from the start again"


def test_a_state_moves_between_numbers_of_ranks_at_the_end_of_a_step_only(tmp_path: Path) -> None:
    write_data_set(tmp_path)
    whole = list(stream(tmp_path))
    halves = [stream(tmp_path, rank=rank, world_size=2) for rank in range(2)]
    begun = [list(islice(half, 4)) for half in halves]  # two steps
    assert halves[0].state_dict() == halves[1].state_dict()
    thirds = [stream(tmp_path, rank=rank, world_size=3) for rank in range(3)]
    for third in thirds:
        third.load_state_dict(halves[0].state_dict())
    assert sorted(keys([b for part in begun for b in part] + [b for t in thirds for b in t])) == sorted(keys(whole))
    list(islice(halves[0], 1))
    halves[0].load_state_dict(halves[1].state_dict())
    within = stream(tmp_path, rank=0, world_size=2)
    next(iter(within))
    with pytest.raises(UserError, match="within a step of 2 ranks, this stream has 3"):
        thirds[0].load_state_dict(within.state_dict())
    with pytest.raises(UserError, match="not one of ShardStream"):
        thirds[0].load_state_dict({"epoch": 3})
    with pytest.raises(UserError, match=r"another stream .*seed: 1 -> 2"):
        stream(tmp_path, seed=2).load_state_dict(within.state_dict())


def test_a_state_at_the_end_of_a_shorter_stream_is_refused(tmp_path: Path) -> None:
    """Its last step was short: a longer stream would begin its next step before that row."""
    write_data_set(tmp_path, [30, 20])
    short = stream(tmp_path)
    assert len(list(short)) == 17
    with pytest.raises(UserError, match="the end of a stream of another length"):
        stream(tmp_path, epochs=2).load_state_dict(short.state_dict())


def test_drop_last_leaves_out_the_short_step(tmp_path: Path) -> None:
    write_data_set(tmp_path, [40, 10])
    counts = [len(list(stream(tmp_path, rank=rank, world_size=4, drop_last=True))) for rank in range(4)]
    assert counts == [4] * 4
    assert [len(list(stream(tmp_path, rank=rank, world_size=4))) for rank in range(4)] == [5, 4, 4, 4]
    assert [len(list(stream(tmp_path, rank=rank, world_size=4, packed=True))) for rank in range(4)] == [5] * 4


def test_the_held_out_split_is_streamed_as_stored(tmp_path: Path) -> None:
    write_data_set(tmp_path, masked=False)
    stored = keys(stream(tmp_path, split="eval"))
    assert stored == keys(stream(tmp_path, split="eval")) and len(stored) > 11
    first, second = (keys(islice(stream(tmp_path, epochs=2), start, stop)) for start, stop in ((0, 24), (24, 48)))
    assert sorted(map(len, first)) == sorted(map(len, second)) and sorted(first) != sorted(second), "new masks in every epoch"


def test_packed_batches_feed_the_packed_model(tmp_path: Path) -> None:
    write_data_set(tmp_path)
    model = PackedEncoder(bert(attention.PADDED))
    batches = list(stream(tmp_path, packed=True))
    assert all(isinstance(batch, PackedBatch) for batch in batches)
    assert model(batches[0]).mlm_loss.item() > 0


def test_a_plain_loop_learns_from_it(tmp_path: Path) -> None:
    write_data_set(tmp_path)
    model = bert(dropout=0.1).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for batch in DataLoader(stream(tmp_path, epochs=4), batch_size=None):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert len(losses) == 96 and sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_transformers_trainer_takes_it(tmp_path: Path) -> None:
    write_data_set(tmp_path / "data")
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=8,
        per_device_train_batch_size=1,
        report_to=[],
        use_cpu=True,
        logging_steps=1,
    )
    model = bert(dropout=0.1)
    trainer = Trainer(
        model=model, args=arguments, train_dataset=stream(tmp_path / "data"), data_collator=lambda items: items[0]
    )
    result = trainer.train()
    assert result.global_step == 8 and result.training_loss > 0
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 8 and all(0 < loss < 20 for loss in logged)


def test_workers_of_a_data_loader_are_refused(tmp_path: Path) -> None:
    write_data_set(tmp_path)
    with pytest.raises(UserError, match="num_workers=0"):
        next(iter(DataLoader(stream(tmp_path), batch_size=None, num_workers=1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "has no split 'test'"),
        ({"rank": 4, "world_size": 5}, "5 ranks, but a step has 4 micro-batches"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"micro_batch": 5}, "does not divide"),
        ({"masking": "never"}, "must be one of auto, stored, dynamic"),
    ],
)
def test_values_that_make_no_sense(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_data_set(tmp_path)
    with pytest.raises(UserError, match=message):
        stream(tmp_path, **options)


def test_a_batch_over_the_rows_with_drop_last_is_refused(tmp_path: Path) -> None:
    write_data_set(tmp_path)  # 72 rows
    with pytest.raises(UserError, match="72 rows are less than a global batch of 144, and drop_last leaves out the short step"):
        stream(tmp_path, global_batch=144, drop_last=True)
    assert len(list(stream(tmp_path, global_batch=144, drop_last=True, epochs=2))) == 48
    assert len(list(stream(tmp_path, global_batch=144))) == 24, "without drop_last the step is short"


def test_an_iterator_left_open_is_silent_when_the_program_ends(tmp_path: Path) -> None:
    write_data_set(tmp_path)
    code = (
        "from train.stream import ShardStream\n"
        f"items = iter(ShardStream({str(tmp_path)!r}, global_batch=2, micro_batch=1, epochs=50))\n"
        "next(items)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

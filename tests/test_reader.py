"""Rows as they are read: those that the order names, whatever the format, the ranks and the threads; faults named."""

import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from conftest import BuildRunner
from datasets_of_rows import ROW_TOKENS, write_data_set
from rows_of_ids import SPECIAL, VOCAB_SIZE, masking
from split_rows import all_rows

from shards import storage
from shards.checks import row_faults
from shards.dataset import masking_of, open_data_set
from shards.errors import UserError
from shards.formats import FORMATS
from shards.gate.rows import Limits
from shards.masking import unmask_rows
from shards.schema import Rows, columns_sha256, concatenate
from shards.template import Template
from train.data.batch import Shape
from train.data.order import Order, RowGroups
from train.data.phase_order import PhaseOrder
from train.data.reader import RankSlice, StepRows, read_steps
from train.data.row_groups import DecodedGroups, check_sizes

BATCH, MICRO = 12, 3


def read(
    url: object, rank: int = 0, ranks: int = 1, first_step: int = 0, epochs: int = 2, threads: int = 2, dynamic: bool = False
) -> list[StepRows]:
    manifest = open_data_set(str(url))
    order = Order(RowGroups.of(manifest.splits["train"]), 3, BATCH, MICRO)
    groups = DecodedGroups(str(url), manifest, "train", threads)
    rank_slice = RankSlice(rank, ranks, first_step, first_step * BATCH, epochs * order.groups.num_rows)
    try:
        return list(read_steps(groups, PhaseOrder.of_one(order), rank_slice, masking() if dynamic else None))
    finally:
        groups.close()


def digests(steps: list[StepRows]) -> list[str]:
    """The content of each row in turn."""
    return [columns_sha256(given.rows.slice(i, i + 1)) for given in steps for i in range(len(given.rows))]


@pytest.mark.parametrize("format", sorted(FORMATS))
@pytest.mark.parametrize("threads", [1, 2, 8])
def test_rows_are_those_that_the_order_names(format: str, threads: int, tmp_path: Path) -> None:
    manifest = write_data_set(tmp_path, format=format)
    rows = all_rows(tmp_path, manifest)
    steps = read(tmp_path, threads=threads)
    ids = np.concatenate([given.row_ids for given in steps])
    assert np.array_equal(np.sort(ids), np.sort(np.tile(np.arange(len(rows)), 2))) and [s.step for s in steps] == list(
        range(12)
    )
    assert digests(steps) == [columns_sha256(rows.slice(i, i + 1)) for i in ids.tolist()]


def test_both_formats_and_any_number_of_ranks_give_the_same_steps(tmp_path: Path) -> None:
    for name in FORMATS:
        write_data_set(tmp_path / name, format=name)
    alone = read(tmp_path / "parquet")
    for ranks in (1, 2, 3, 5, 7, 8):  # three shards: fewer than some
        shares = [read(tmp_path / "webdataset", rank, ranks) for rank in range(ranks)]
        assert {len(share) for share in shares} == {len(alone)}
        for step, expected in enumerate(alone):
            together = [row for share in shares for row in share[step].row_ids.tolist()]
            assert together == expected.row_ids.tolist()
            assert digests([share[step] for share in shares]) == digests([expected])


@pytest.mark.parametrize("first_step", [0, 1, 5, 11])
def test_reading_begins_anywhere(first_step: int, tmp_path: Path) -> None:
    write_data_set(tmp_path)
    assert digests(read(tmp_path, first_step=first_step)) == digests(read(tmp_path)[first_step:])


def test_a_remote_data_set_reads_the_same(tmp_path: Path) -> None:
    for name in FORMATS:
        write_data_set(tmp_path / name, format=name)
        write_data_set(f"memory://{name}", format=name)
        assert digests(read(f"memory://{name}")) == digests(read(tmp_path / name))
    fsspec.filesystem("memory").store.clear()


def test_dynamic_masks_follow_seed_epoch_and_row_and_nothing_else(tmp_path: Path) -> None:
    write_data_set(tmp_path / "static")
    write_data_set(tmp_path / "dynamic", masked=False)
    alone = read(tmp_path / "dynamic", dynamic=True)
    assert digests(read(tmp_path / "static", dynamic=True)) == digests(alone), "stored masks are put back first"
    shares = [read(tmp_path / "dynamic", rank, 3, dynamic=True) for rank in range(3)]
    assert [d for step in zip(*shares, strict=True) for d in digests(list(step))] == digests(alone)
    rows, ids = concatenate([given.rows for given in alone]), np.concatenate([given.row_ids for given in alone])
    template = Template((SPECIAL["cls"],), (SPECIAL["sep"],), (SPECIAL["sep"],), 1)
    assert not row_faults(rows, Limits(VOCAB_SIZE, row_tokens=ROW_TOKENS), SPECIAL, masking(), template)
    first, second = (np.flatnonzero(ids == row) for row in (4, 5))
    assert digests(alone)[first[0]] != digests(alone)[first[1]], "another epoch, other masks"
    plain = [columns_sha256(unmask_rows(rows.slice(i, i + 1))) for i in (*first, *second)]
    assert plain[0] == plain[1] and plain[2] == plain[3]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("gone", r"000001-0000.parquet: is missing, the manifest says \d+"),
        ("short", r"000001-0000.parquet: has \d+ bytes, the manifest says \d+"),
    ],
)
def test_a_missing_or_short_shard_is_named_before_training(damage: str, message: str, tmp_path: Path) -> None:
    manifest = write_data_set(tmp_path)
    shard = tmp_path / manifest.splits["train"].shards[1].path
    shard.unlink() if damage == "gone" else shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(UserError, match=message):
        check_sizes(str(tmp_path), manifest, "train")


@pytest.mark.parametrize("place", ["disk", "memory"])
@pytest.mark.parametrize("format", sorted(FORMATS))
def test_an_altered_shard_is_named_and_the_threads_end(format: str, place: str, tmp_path: Path) -> None:
    """The file of another seed: whole in itself, and so known by its hash alone."""
    url = str(tmp_path) if place == "disk" else "memory://altered"
    manifest = write_data_set(url, format=format)
    write_data_set(tmp_path / "other", format=format, seed=1)
    shard = manifest.splits["train"].shards[2]
    other = (tmp_path / "other" / shard.path).read_bytes()
    storage.publish(storage.join(url, shard.path), other)
    with pytest.raises(UserError, match=r"000002-0000\S+: its sha256 is [0-9a-f]{64}, the manifest says [0-9a-f]{64}"):
        read(url)
    assert not [t for t in threading.enumerate() if "gather" in t.name]
    fsspec.filesystem("memory").store.clear()


def test_a_thread_that_dies_raises_in_the_loop_with_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock: memory cannot be made to run out here."""
    write_data_set(tmp_path)

    def die(*_: object) -> None:
        raise MemoryError("no memory for a row group")

    monkeypatch.setattr("train.data.row_groups.read_part", die)
    with pytest.raises(MemoryError, match="row group"):
        read(tmp_path)


def test_leaving_early_ends_the_threads(tmp_path: Path) -> None:
    manifest = write_data_set(tmp_path, [400] * 3)
    order = Order(RowGroups.of(manifest.splits["train"]), 3, BATCH, MICRO)
    groups = DecodedGroups(str(tmp_path), manifest, "train", 2)
    steps: Iterator[StepRows] = read_steps(groups, PhaseOrder.of_one(order), RankSlice(0, 1, 0, 0, 10**9))
    assert len(next(steps).rows) == BATCH
    steps.close()  # type: ignore[attr-defined]  # a generator
    groups.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith(("gather", "shards", "groups"))]


def test_groups_are_decoded_once_an_epoch_and_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one lane, ten thousand rows are many windows, so a group is out of reach long before the epoch ends."""
    manifest = write_data_set(tmp_path, [2500] * 4, group_rows=100, packed=False)
    order = Order(RowGroups.of(manifest.splits["train"]), 3, 100, 10, max_lanes=1)
    groups = DecodedGroups(str(tmp_path), manifest, "train", 2)
    decoded: list[tuple[str, int]] = []
    original = groups._decode

    def spy(shard: object, group: int, opened: object) -> Rows:
        decoded.append((shard.path, group))  # type: ignore[attr-defined]
        return original(shard, group, opened)  # type: ignore[arg-type]

    monkeypatch.setattr(groups, "_decode", spy)
    most = 0
    for _ in read_steps(groups, PhaseOrder.of_one(order), RankSlice(0, 1, 0, 0, order.groups.num_rows)):
        most = max(most, len(groups._decoded))
    groups.close()
    assert len(decoded) == len(set(decoded)) == 100
    assert most < 70


@pytest.mark.parametrize("unit", ["word", "ngram", "span"])
def test_words_ngrams_and_spans_are_masked_on_reading_as_in_the_shards(unit: str, build: BuildRunner, corpus: Path) -> None:
    arguments = ("--masking", "dynamic", "--mask-unit", unit, "--mask-prob", 0.2, "--pairing", "none", "--cross-documents")
    out = str(build(corpus, *arguments))
    manifest = open_data_set(out)
    rule = masking_of(out, manifest)
    order = Order(RowGroups.of(manifest.splits["train"]), 5, 40, 8)
    groups = DecodedGroups(out, manifest, "train", threads=2)
    rank_slice = RankSlice(0, 1, first_step=0, start=0, end=2 * manifest.splits["train"].totals()["rows"])
    rows = concatenate([step.rows for step in read_steps(groups, PhaseOrder.of_one(order), rank_slice, rule)])
    groups.close()
    template = Template.of(manifest.tokenizer, paired=False)
    special, size = manifest.tokenizer["special_ids"], manifest.tokenizer["vocab_size"]
    assert not row_faults(rows, Limits(size, row_tokens=512), special, rule, template, cross_documents=True)
    assert rows.masked_offsets is not None
    assert np.diff(rows.masked_offsets).max() <= Shape.of(manifest, "train", 1, rule).masked
    assert abs(len(rows.masked_indices()) / len(rows.input_ids) - 0.2) < 0.005

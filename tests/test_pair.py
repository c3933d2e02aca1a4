"""One pair task on a token store made by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from token_stores import list_of, make_documents, write_store

from prep.pairing.pair import pair_partition
from prep.pairing.task import PairTask, Recipe
from prep.partitions import divide
from prep.tokens.store import LAST_PLACE, Places
from shards.formats import FORMATS
from shards.masking import Masking
from shards.template import Template

RECIPE = Recipe(
    seed=3,
    pairing="nsp",
    separator=None,
    overlap=0,
    drop_duplicates=False,
    max_seq_len=32,
    short_seq_prob=0.1,
    pack=True,
    row_capacity=64,
    masking=Masking(0.15, 65_536, (0, 1, 2, 3, 4), 4),
    template=Template((2,), (3,), (3,), 1),
    vocab_size=65_536,
    format="parquet",
    shard_tokens=1000,
)


def make_task(folder: Path, shapes: list[list[int]], same_content: bool = False) -> PairTask:
    documents = make_documents(shapes)
    documents = replace(documents, ids=(documents.ids % 60_000 + 10).astype(np.uint16))
    if same_content:
        documents = replace(documents, hashes=np.zeros_like(documents.hashes))
    places = Places.make(0.0)
    urls = {"store": str(folder / "store"), "out": str(folder / "out"), "records": str(folder / "records")}
    sources = list_of(folder / "store", write_store(folder / "store", [documents], places))
    return PairTask(0, "train", 0, 0, LAST_PLACE, 0, 1 << 64, sources=sources, places=places, recipe=RECIPE, **urls)


def test_ranges_of_places_are_disjoint_and_complete(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = make_task(tmp_path, [rng.integers(1, 12, rng.integers(1, 9)).tolist() for _ in range(300)])
    ranges = enumerate(divide(0, LAST_PLACE + 1, 4))
    pairs = [pair_partition(replace(whole, number=number, first=first, last=last)) for number, (first, last) in ranges]
    everything = pair_partition(replace(whole, number=9))
    assert sum(pair.documents for pair in pairs) == everything.documents == 300
    assert sum(pair.tally.made for pair in pairs) == everything.tally.made
    assert min(pair.documents for pair in pairs) > 40
    for pair in (*pairs, everything):
        tally, tokens = pair.tally, sum(shard.tokens for shard in pair.shards)
        assert tally.made == tally.placed + tally.truncated + tally.unpaired
        assert tokens == tally.placed + tally.negatives + 3 * sum(shard.sequences for shard in pair.shards)


def test_a_task_without_documents_or_without_pairs_has_no_shards(tmp_path: Path) -> None:
    nothing = replace(make_task(tmp_path / "a", [[3, 4]] * 8), hash_from=(1 << 64) - 1)
    assert pair_partition(nothing).shards == () and pair_partition(nothing).documents == 0
    copies = pair_partition(make_task(tmp_path / "b", [[5]] * 8, same_content=True))
    assert copies.shards == () and copies.tally.unpaired == copies.tally.made == 40 and copies.tally.dropped == 8
    unpacked = make_task(tmp_path / "c", [[5]] * 8, same_content=True)
    assert pair_partition(replace(unpacked, recipe=replace(RECIPE, pack=False))).shards == ()


def test_the_largest_rows_that_the_types_allow(tmp_path: Path) -> None:
    recipe = replace(RECIPE, max_seq_len=65_535, row_capacity=65_535, short_seq_prob=0.0)
    task = replace(make_task(tmp_path, [[700] * 60 for _ in range(8)]), recipe=recipe)
    record = pair_partition(task)
    assert max(shard.max_row_tokens for shard in record.shards) > 60_000
    last = 0
    for shard in record.shards:
        rows = FORMATS["parquet"].read(str(tmp_path / "out" / shard.path), shard.row_groups)
        assert rows.masked_positions is not None
        last = max(last, int(rows.masked_positions.max()))
        assert np.array_equal(rows.sequence_starts()[rows.sequence_offsets], rows.token_offsets)
    assert last > 60_000


def test_a_finished_share_is_not_built_again_unless_a_shard_is_gone(tmp_path: Path) -> None:
    task = make_task(tmp_path, [[3, 4, 5], [6, 7]] * 20)
    record = pair_partition(task)
    shard = tmp_path / "out" / record.shards[0].path
    before = shard.stat().st_mtime_ns
    assert pair_partition(task) == record and shard.stat().st_mtime_ns == before
    shard.unlink()
    assert pair_partition(task) == record and shard.exists()
    (tmp_path / "records" / "pair-000000.json").write_text("{")
    assert pair_partition(task) == record

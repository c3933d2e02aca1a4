"""The index of a data set with many shards: the same shards as a list in the manifest, at a fraction of the memory."""

import io
import json
import random
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets_of_rows import write_data_set
from hypothesis import given
from hypothesis import strategies as st

from prep import output
from prep.build import build
from prep.inspect.verify import verify
from prep.settings import Settings
from shards import manifest as manifests
from shards import shard_list
from shards.dataset import open_data_set
from shards.errors import UserError
from shards.gate.shards import COLUMN_NAMES, COUNTS, GROUP_COLUMNS, Columns, check_columns
from shards.manifest import RowGroup, ShardInfo, Shards, Split, fingerprint
from shards.npz import decode_npz, encode_npz
from shards.schema import Ints
from shards.shard_list import decode_index, encode_index
from train.data.order import RowGroups
from train.data.shard_uses import needed_bytes
from train.stream import ShardStream

DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
NUMBERS = st.integers(0, 2**62)
GROUPS = st.lists(st.builds(RowGroup, NUMBERS, NUMBERS, NUMBERS), max_size=4).map(tuple)
INFOS = st.lists(
    st.builds(
        ShardInfo, st.text("abc.-", min_size=1), NUMBERS, DIGESTS, DIGESTS, *[NUMBERS] * len(COUNTS[1:]), row_groups=GROUPS
    ),
    max_size=5,
)


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of seven shards, listed in its manifest."""
    folder = tmp_path_factory.mktemp("listed") / "data"
    write_data_set(folder, (40, 7, 25, 16, 33, 1))
    return folder


@pytest.fixture
def indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same data set, with an index."""
    monkeypatch.setattr(manifests, "MOST_LISTED", 6)
    write_data_set(tmp_path / "data", (40, 7, 25, 16, 33, 1))
    return tmp_path / "data"


@given(INFOS, INFOS)
def test_columns_hold_what_objects_hold(train: list[ShardInfo], held_out: list[ShardInfo]) -> None:
    shards = {"train": Shards.of(train), "eval": Shards.of(held_out)}
    assert list(shards["train"]) == train and shards["train"][1:] == train[1:] and shards["train"][-2:] == train[-2:]
    assert shards["train"].paths() == [info.path for info in train]
    read = {name: Shards(columns) for name, columns in decode_index(encode_index(shards), ("train", "eval")).items()}
    assert read == shards and list(read["eval"]) == held_out
    assert all(read["train"].totals[name] == sum(getattr(info, name) for info in train) for name in ("bytes", "tokens"))
    with pytest.raises(IndexError):
        shards["train"][len(train)]


def test_golden_bytes_of_an_index() -> None:
    info = ShardInfo(
        "train/000000-0000.parquet", 900, "ab" * 32, "cd" * 32, 3, 5, 70_000, *range(7), row_groups=(RowGroup(3, 4, 800),)
    )
    data = encode_index({"train": Shards.of([info]), "eval": Shards.of([])})
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        assert arrays["train/path"].tobytes() == b"train/000000-0000.parquet\n"
        assert arrays["train/tokens"].tolist() == [70_000] and arrays["train/tokens"].dtype == np.uint32
        assert sorted(arrays) == sorted(f"{split}/{name}" for split in ("train", "eval") for name in COLUMN_NAMES)
    assert sha256(data).hexdigest()[:16] == GOLDEN_INDEX


GOLDEN_INDEX = "eeb2b855268083bf"


def test_an_index_changes_nothing_but_the_manifest(listed: Path, indexed: Path) -> None:
    old, new = (json.loads((folder / "manifest.json").read_text()) for folder in (listed, indexed))
    assert "shards" not in new["splits"]["train"] and "index" not in old and len(old["splits"]["train"]["shards"]) == 6
    assert new["data_fingerprint"] == old["data_fingerprint"] and new["format_version"] == old["format_version"] == 2
    assert new["splits"]["train"].items() <= old["splits"]["train"].items()
    few, many = open_data_set(str(listed)), open_data_set(str(indexed))
    assert list(few.splits["train"].shards) == list(many.splits["train"].shards)
    assert RowGroups.of(few.splits["train"]).fingerprint == RowGroups.of(many.splits["train"]).fingerprint
    batches = [list(ShardStream(str(url), global_batch=8, micro_batch=4, threads=1)) for url in (listed, indexed)]
    assert len(batches[0]) == len(batches[1]) > 20
    assert all((a["input_ids"] == b["input_ids"]).all() for a, b in zip(*batches, strict=True))  # type: ignore[call-overload]
    assert [line for line in verify(str(indexed), 1) if "ledger" not in line] == []


def test_opening_makes_no_object_per_shard(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(ShardInfo):
        made = 0

        def __init__(self, *values: Any, **named: Any) -> None:
            super().__init__(*values, **named)
            Counted.made += 1

    monkeypatch.setattr(shard_list, "ShardInfo", Counted)
    stream = ShardStream(str(indexed), global_batch=8, micro_batch=4, threads=1)
    assert needed_bytes(open_data_set(str(indexed)).splits["train"].shards, 4) > 0 and stream.num_steps == 16
    assert output.lost_files(str(indexed)) == [] and Counted.made == 0
    assert list(stream) and 0 < Counted.made < 100


def seal(folder: Path, arrays: dict[str, Ints]) -> None:
    """Writes an index with the digests and sums that fit, as an attacker does."""
    data = encode_npz(arrays)
    (folder / "shards.npz").write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("sha256")
    manifest["index"] = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
    try:
        splits = {name: Split(Shards(columns)) for name, columns in decode_index(data, ("train", "eval")).items()}
        manifest["data_fingerprint"] = replace(open_data_set_unchecked(manifest), splits=splits).data_fingerprint
        manifest["splits"] = {name: split.totals() for name, split in splits.items()}
    except (ValueError, IndexError):
        pass
    (folder / "manifest.json").write_text(json.dumps(manifest | {"sha256": fingerprint(manifest)}))


def open_data_set_unchecked(value: dict[str, Any]) -> manifests.Manifest:
    names = ("settings", "tokenizer", "inputs", "ledger", "made_with", "recipe_version")
    return manifests.Manifest(**{name: value[name] for name in names}, splits={})


def values(column: str, *numbers: int, dtype: Any = np.uint64) -> Callable[[dict[str, Ints]], None]:
    """The numbers in place of the first ones of a column of the split train."""

    def change(arrays: dict[str, Ints]) -> None:
        column_values = arrays[f"train/{column}"].astype(dtype)
        column_values[: len(numbers)] = numbers
        arrays[f"train/{column}"] = column_values

    return change


def text(old: bytes, new: bytes) -> Callable[[dict[str, Ints]], None]:
    def change(arrays: dict[str, Ints]) -> None:
        arrays["train/path"] = np.frombuffer(arrays["train/path"].tobytes().replace(old, new), np.uint8)

    return change


def cut(column: str, by: int) -> Callable[[dict[str, Ints]], None]:
    return lambda arrays: arrays.update({f"train/{column}": arrays[f"train/{column}"][:-by]})


LIES = {
    "no bytes": (values("bytes", 0), r"shards\[0\].bytes is 0, must be an integer from 1"),
    "too many bytes": (values("bytes", 1 << 60), "shards.0..bytes is"),
    "beyond 64 bits with a sign": (values("tokens", 1 << 63), "tokens holds 9223372036854775808"),
    "rows": (values("rows", 41), "rows is 41, must be the sum"),
    "tokens": (values("tokens", 1 << 40), "tokens is 1099511627776"),
    "long rows": (values("max_row_tokens", 65), "max_row_tokens is 65, must be an integer from 0 to 64"),
    "long sequences": (values("max_sequence_tokens", 33), "max_sequence_tokens is 33, must be an integer from 0 to 32"),
    "sequences": (values("max_sequences_per_row", 1), "sequences is"),
    "masked": (values("max_masked_per_row", 1 << 28), "max_masked_per_row is"),
    "labels": (values("not_next", 1 << 30), "not_next is"),
    "groups of no shard": (values("row_groups", 9), "row_groups does not sum"),
    "groups that wrap": (values("row_groups", (1 << 63) - 1, (1 << 63) - 1, 4), "row_groups does not sum"),
    "groups of another shard": (values("row_groups", 2, 2), "a row group must end within the bytes of its shard"),
    "large groups": (values("group_rows", 1 << 24), "a row group must have from 1 to 65536 rows"),
    "empty groups": (values("group_rows", 0), "a row group must have from 1"),
    "groups beyond the end": (values("group_offset", 1 << 62), "a row group must end within"),
    "groups that wrap around": (values("group_bytes", (1 << 63) - 1), "a row group must end within"),
    "groups over each other": (values("group_offset", 4, 5), "a row group must begin after"),
    "paths above": (text(b"train/000000", b"train/../../00"), "path is"),
    "paths of another split": (text(b"train/000001", b"eval/0000001"), "path is"),
    "paths twice": (text(b"train/000001", b"train/000000"), "must name each shard once"),
    "no letters": (text(b"train/000001", b"train/\xff\xfe0001"), "path is"),
    "more paths": (text(b"train/000001", b"x\ntrain/000001"), "path does not hold 6 lines"),
    "no last line": (cut("path", 1), "path does not hold 6 lines"),
    "short digests": (cut("sha256", 1), "sha256 has 191 values, must have 192"),
    "wide digests": (values("sha256", 3, dtype=np.uint16), "sha256 is uint16"),
    "a column less": (lambda arrays: arrays.pop("train/tokens"), "its columns are"),
    "a column more": (lambda arrays: arrays.update({"train/x": arrays["train/rows"]}), "its columns are"),
    "another split": (lambda arrays: arrays.update({"test/rows": arrays["train/rows"]}), "belongs to no split"),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_index_that_lies_is_one_line(lie: str, indexed: Path) -> None:
    change, message = LIES[lie]
    arrays = decode_npz((indexed / "shards.npz").read_bytes())
    change(arrays)
    seal(indexed, arrays)
    with pytest.raises(UserError, match=message) as caught:
        open_data_set(str(indexed))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert verify(str(indexed), 1) == [str(caught.value)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), r"shards.npz: is missing, the manifest says \d+; restore it"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"shards.npz: has \d+ bytes, the manifest says"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), "the sha256 of shards.npz is"),
    ],
)
def test_an_index_that_was_lost_or_altered_is_named(damage: Callable[[Path], object], message: str, indexed: Path) -> None:
    damage(indexed / "shards.npz")
    with pytest.raises(UserError, match=message):
        open_data_set(str(indexed))


def test_shards_are_not_listed_beside_an_index(indexed: Path) -> None:
    manifest = json.loads((indexed / "manifest.json").read_text())
    manifest["splits"]["train"]["shards"] = []
    (indexed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"splits\.train is .* must not list shards beside an index"):
        open_data_set(str(indexed))


@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=pytest.mark.long)])
def test_mutants_of_columns_are_read_or_refused(count: int, listed: Path) -> None:
    """Any values of any lengths; what passes keeps the bounds that readers rely on."""
    draw, original = random.Random(count), open_data_set(str(listed)).splits
    data, passed = encode_index({name: split.shards for name, split in original.items()}), 0
    for _ in range(count):
        arrays = decode_npz(data)
        for name in draw.sample(sorted(arrays), draw.choice((1, 1, 2, 3))):
            column = arrays[name].astype(draw.choice((np.uint8, np.uint16, np.uint32, np.uint64)))
            if len(column) and draw.random() < 0.8:
                column[draw.randrange(len(column))] = (
                    draw.choice((0, 1, 2, 255)) if draw.random() < 0.5 else draw.getrandbits(7)
                )
            else:
                column = column[: draw.randrange(len(column) + 1)]
            arrays[name] = column
        try:
            columns = decode_index(encode_npz(arrays), ("train", "eval"))
            for name in columns:
                check_columns(columns[name], name, ".parquet", 32, 64)
        except ValueError:
            continue
        passed += 1
        for name in columns:
            assert_bounds(columns[name], Shards(columns[name]))
    assert 0 < passed < count


def assert_bounds(columns: Columns, shards: Shards) -> None:
    assert len(shards) == len(shards.paths()) == len({info.path for info in shards})
    for info in shards:
        assert 1 <= info.rows == sum(group.rows for group in info.row_groups) <= info.sequences <= info.tokens
        assert all(0 <= group.offset <= group.offset + group.bytes <= info.bytes for group in info.row_groups)
        assert info.max_row_tokens <= 64 and info.max_sequence_tokens <= 32 and len(info.sha256) == 64
    assert all(len(columns[name]) == int(columns["row_groups"].sum()) for name in GROUP_COLUMNS)


def test_a_build_with_an_index_finishes_resumes_and_mends_itself(
    tmp_path: Path, corpus: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"corpus": (str(corpus),), "tokenizer": str(vocabulary), "scratch": str(tmp_path / "scratch")}
    settings = Settings(**places, out=str(tmp_path / "out"), engine="executors:threads", shard_bytes=200 << 10)  # type: ignore[arg-type]
    whole = build(replace(settings, out=str(tmp_path / "whole")))
    monkeypatch.setattr(manifests, "MOST_LISTED", 3)
    made = build(settings)
    index = tmp_path / "out" / "shards.npz"
    data = index.read_bytes()
    assert made and whole and made.data_fingerprint == whole.data_fingerprint
    assert list(made.splits["train"].shards) == list(whole.splits["train"].shards)
    assert verify(settings.out, 1) == []
    assert build(settings) is None and "it was left as it is" in capsys.readouterr().err
    index.unlink()
    assert output.lost_files(settings.out) == ["shards.npz"]
    assert build(settings) and index.read_bytes() == data
    (tmp_path / "out" / "manifest.json").unlink()  # a build that died between the two, and ends with fewer shards
    monkeypatch.setattr(manifests, "MOST_LISTED", 1000)
    assert build(settings) and not index.exists()
    assert (tmp_path / "out" / "manifest.json").read_bytes() == (tmp_path / "whole" / "manifest.json").read_bytes()

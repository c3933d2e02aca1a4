import io
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_of_ids import IDS, keys_of, make_rows, masking

from shards import npz
from shards.formats import FORMATS
from shards.masking import mask_rows
from shards.schema import Rows, columns_sha256, concatenate

BOTH = pytest.mark.parametrize("name", sorted(FORMATS))


def example(num_rows: int = 10, masked: bool = True) -> Rows:
    rng = np.random.default_rng(1)
    sequences = [rng.integers(5, 500, rng.integers(2, 60)).tolist() for _ in range(2 * num_rows)]
    rows = make_rows(sequences, [2] * num_rows)
    return mask_rows(rows, keys_of(rows), masking()) if masked else rows


@BOTH
@given(sequences=st.lists(IDS, min_size=1, max_size=10), group_rows=st.integers(1, 12), masked=st.booleans())
@settings(deadline=None, max_examples=40)
def test_what_is_written_is_read(name: str, sequences: list[list[int]], group_rows: int, masked: bool) -> None:
    rows = make_rows(sequences, [1] * len(sequences))
    rows = mask_rows(rows, keys_of(rows), masking()) if masked else rows
    data, table = FORMATS[name].write(rows, group_rows)
    assert columns_sha256(FORMATS[name].read(data, table)) == columns_sha256(rows)
    assert [group.rows for group in table] == [min(group_rows, len(rows) - i) for i in range(0, len(rows), group_rows)]


@BOTH
def test_row_groups_are_read_alone_and_in_any_order(name: str) -> None:
    rows = example()
    data, table = FORMATS[name].write(rows, 4)
    read = FORMATS[name].read(data, table, [2, 0])
    assert columns_sha256(read) == columns_sha256(concatenate([rows.slice(8, 10), rows.slice(0, 4)]))


@BOTH
def test_the_same_rows_give_the_same_bytes(name: str) -> None:
    assert bytes(FORMATS[name].write(example(), 4)[0]) == bytes(FORMATS[name].write(example(), 4)[0])


@BOTH
def test_a_local_path_is_read_like_bytes(name: str, tmp_path: Path) -> None:
    data, table = FORMATS[name].write(example(), 4)
    (tmp_path / "shard").write_bytes(data)
    assert columns_sha256(FORMATS[name].read(str(tmp_path / "shard"), table)) == columns_sha256(example())


@BOTH
def test_damage_is_an_error_or_changes_the_digest(name: str) -> None:
    data, table = FORMATS[name].write(example(), 4)
    unnoticed = []
    for at in range(0, len(data), 37):
        damaged = bytearray(data)
        damaged[at] ^= 0x55
        try:
            read = FORMATS[name].read(bytes(damaged), table)
        except (ValueError, OSError):
            continue
        if columns_sha256(read) != columns_sha256(example()):
            unnoticed.append(at)
    assert not unnoticed, "decoded without an error, to other values"


@BOTH
def test_a_truncated_shard_is_an_error(name: str) -> None:
    data, table = FORMATS[name].write(example(), 4)
    with pytest.raises((ValueError, OSError)):
        FORMATS[name].read(bytes(data[: len(data) // 2]), table)


def test_golden_bytes_of_an_npz() -> None:
    data = npz.encode_npz({"a": np.array([1, 2, 258], np.uint16)})
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        assert arrays["a"].tolist() == [1, 2, 258]
    assert data[:10].hex() == "504b0304140000000000" and zlib.crc32(data) == GOLDEN_NPZ
    assert npz.decode_npz(data)["a"].tolist() == [1, 2, 258]


GOLDEN_NPZ = 1957560157


@pytest.mark.parametrize("content", [b"", b"not a zip", npz.encode_npz({"a": np.array([1, 2], np.uint16)})[:70]])
def test_what_is_no_npz_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"archive|member"):
        npz.decode_npz(content)


def test_pickled_members_are_refused() -> None:
    archive = io.BytesIO()
    np.savez(archive, a=np.array([{"x": 1}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="member"):
        npz.decode_npz(archive.getvalue())


def test_parquet_is_plain_to_other_readers() -> None:
    rows = example()
    data, _ = FORMATS["parquet"].write(rows, 4)
    table = pq.read_table(io.BytesIO(data))
    assert str(table.schema.field("input_ids").type) == "list<element: uint16 not null>"
    assert table.schema.metadata[b"format_version"] == b"2"
    assert table["input_ids"].to_pylist()[3] == rows.slice(3, 4).input_ids.tolist()


def test_tar_members_have_padded_names_and_no_times() -> None:
    data, _ = FORMATS["webdataset"].write(example(), 4)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|gz") as archive:
        members = list(archive)
    assert [member.name for member in members] == [f"{i:08d}.npz" for i in range(10)]
    assert {(member.mtime, member.uid, member.uname) for member in members} == {(0, 0, "")}

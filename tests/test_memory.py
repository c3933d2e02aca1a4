"""What takes more memory than there is ends in one line before it is allocated, whatever the bounds of the format allow."""

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import ROOT, call
from datasets_of_rows import random_rows, write_data_set
from launch import tiny
from strangers import manifest_of, put_shard, seal

from prep.inspect import verify as verifying
from shards import memory
from shards.dataset import decode, open_data_set
from shards.errors import UserError
from shards.formats import FORMATS
from shards.gate.rows import MAX_GROUP_ROWS, MAX_SEQ_LEN, MAX_VOCAB_SIZE
from shards.memory import free_bytes, require_memory
from shards.schema import Rows
from train.data.batch import pack_batch
from train.data.layout import Shape
from train.stream import ShardStream

GB = 1 << 30


@pytest.fixture
def two_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the machine's own memory decides nothing."""
    monkeypatch.setattr(memory, "free_bytes", lambda: 2 * GB)


def test_free_memory_is_between_nothing_and_that_of_the_machine() -> None:
    total = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert 0 < free_bytes() <= total * 1024


def test_a_limit_of_the_process_counts() -> None:
    code = "import resource; from shards.memory import free_bytes, require_memory\n"
    code += "resource.setrlimit(resource.RLIMIT_AS, (8 << 30, resource.RLIM_INFINITY)); print(free_bytes() < 8 << 30)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n" and resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


@pytest.mark.usefixtures("two_gigabytes")
def test_only_more_than_is_free_is_refused() -> None:
    require_memory(2 * GB, "a table", "use a smaller one")
    with pytest.raises(UserError, match=r"^a table takes about 3\.2 GB of memory, 2\.1 GB are free; use a smaller one$"):
        require_memory(3 * GB, "a table", "use a smaller one")


def widened(folder: Path, **changes: int) -> Any:
    """A data set whose manifest allows more than its rows hold."""
    write_data_set(folder, shard_rows=(40,))
    manifest = manifest_of(folder)
    manifest["settings"] |= {"max_seq_len": MAX_SEQ_LEN, "pack_to": MAX_SEQ_LEN}
    manifest["splits"]["train"]["shards"][0].update(changes)
    seal(folder, manifest)
    return manifest


@pytest.mark.usefixtures("two_gigabytes")
def test_rows_of_extreme_length_end_training_in_one_line(tmp_path: Path) -> None:
    widened(tmp_path / "data", max_row_tokens=MAX_SEQ_LEN)
    done = call("train.__main__", tiny(tmp_path / "data", tmp_path / "run"))
    assert done.returncode == 2 and "a micro-batch of 3 rows of up to 65535 tokens, with" in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].endswith("2.1 GB are free; set a smaller --micro-batch")
    assert "Traceback" not in done.stderr


def test_a_vocabulary_that_the_tokenizer_does_not_have_ends_training_in_one_line(tmp_path: Path) -> None:
    write_data_set(tmp_path / "data", shard_rows=(40,))
    manifest = manifest_of(tmp_path / "data")
    manifest["tokenizer"] |= {"vocab_size": MAX_VOCAB_SIZE, "id_type": "uint32"}
    seal(tmp_path / "data", manifest)
    done = call("train.__main__", tiny(tmp_path / "data", tmp_path / "run"))
    assert done.returncode == 2 and f"the manifest says {MAX_VOCAB_SIZE}; run `prep verify" in done.stderr, done.stderr


def test_many_sequences_beside_a_long_one_are_no_square_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padded attention has a slot for each token that each sequence might have."""
    rows = random_rows(4, seed=1)
    rows = replace(rows, masked_offsets=None, masked_positions=None, masked_labels=None)
    shape = Shape(4, MAX_SEQ_LEN, MAX_SEQ_LEN, MAX_SEQ_LEN, 1)
    lengths = np.ones(4 * 1000, np.uint16)
    flat = Rows(np.arange(5) * 1000, np.arange(5) * 1000, np.full(4000, 7, np.uint16), lengths, lengths)
    monkeypatch.setattr(memory, "free_bytes", lambda: 2 * GB)
    with pytest.raises(UserError, match="a micro-batch of 4 rows with 4000 sequences, padded to 65535 tokens, takes about 2"):
        pack_batch(flat, shape, 0)
    assert pack_batch(rows, replace(shape, tokens=64, longest=32), 0).tokens == len(rows.input_ids)


@pytest.mark.usefixtures("two_gigabytes")
def test_windows_of_long_rows_end_a_stream_in_one_line(tmp_path: Path) -> None:
    rows, tokens = 250_000, 250_000 * MAX_SEQ_LEN
    groups = [[MAX_GROUP_ROWS // 512, 4 + number, 1] for number in range(-(-rows // (MAX_GROUP_ROWS // 512)))]
    rows = sum(group[0] for group in groups)
    widened(
        tmp_path,
        rows=rows,
        tokens=tokens,
        sequences=rows,
        masked_tokens=0,
        max_row_tokens=MAX_SEQ_LEN,
        max_sequence_tokens=MAX_SEQ_LEN,
        row_groups=groups,
    )
    with pytest.raises(UserError, match=r"reading \d+ rows at once takes about .* build the data set again with a smaller"):
        ShardStream(str(tmp_path), global_batch=64, micro_batch=64)


def test_verify_names_a_shard_that_memory_cannot_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data_set(tmp_path, shard_rows=(40,))
    monkeypatch.setattr(memory, "free_bytes", lambda: 2 * GB)
    monkeypatch.setattr(verifying, "free_bytes", lambda: 2 * GB)
    task = next(verifying._tasks(str(tmp_path), open_data_set(str(tmp_path))))
    assert verifying.shard_faults(task) == []
    large = replace(task.limits, tokens=1 << 40, row_tokens=1 << 40)
    faults = verifying.shard_faults(replace(task, limits=large))
    assert len(faults) == 1 and "decoding the whole shard takes about" in faults[0]


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_the_sums_of_the_manifest_bound_what_is_decoded(format: str, tmp_path: Path) -> None:
    """Each row is below the maximum of a row, and all rows together are more than the manifest says."""
    write_data_set(tmp_path, shard_rows=(40,), format=format)
    manifest = open_data_set(str(tmp_path))
    shard = manifest.splits["train"].shards[0]
    data = (tmp_path / shard.path).read_bytes()
    assert len(decode(manifest, "train", shard, data)) == 40
    few = replace(shard, tokens=shard.tokens // 40, sequences=shard.sequences // 40, masked_tokens=shard.masked_tokens // 40)
    with pytest.raises(ValueError, match=r"values that its rows may have|in all row groups"):
        decode(manifest, "train", few, data)


def test_rows_without_masks_are_within_the_sums(tmp_path: Path) -> None:
    """An empty list has an entry in a Parquet page too."""
    write_data_set(tmp_path, shard_rows=(40,), masked=True)
    manifest = open_data_set(str(tmp_path))
    rows = decode(manifest, "train", shard := manifest.splits["train"].shards[0], (tmp_path / shard.path).read_bytes())
    none = np.zeros(0, np.uint16)
    bare = replace(rows, masked_offsets=np.zeros(41, np.int64), masked_positions=none, masked_labels=none)
    data, groups = FORMATS["parquet"].write(bare, 16)
    bare_shard = replace(shard, masked_tokens=0, max_masked_per_row=0, row_groups=tuple(groups), bytes=len(data))
    assert len(decode(manifest, "train", bare_shard, data)) == 40


def test_a_group_has_a_bounded_number_of_rows(tmp_path: Path) -> None:
    manifest = widened(tmp_path)
    manifest["settings"] |= {"max_seq_len": 1, "pack_to": 1}
    put_shard(tmp_path, manifest, b"x" * 100, [[MAX_GROUP_ROWS + 1, 4, 50]])
    with pytest.raises(UserError, match="manifest"):
        open_data_set(str(tmp_path))

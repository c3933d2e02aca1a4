"""The gate: whatever a data set of a stranger says, each reader ends with UserError and within the bounds of memory."""

import random
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ROOT, run_prep
from datasets_of_rows import write_data_set
from strangers import change_rows, manifest_of, put_shard, seal

from prep.inspect.report import report
from prep.inspect.verify import verify
from prep.pairing.recipes import RECIPES
from shards.dataset import decode, open_data_set, read_group
from shards.errors import UserError
from shards.formats import FORMATS
from shards.gate.manifest import MASK_UNITS, PAIRINGS, SUFFIXES
from shards.gate.rows import MAX_GROUP_TOKENS, MAX_UNUSED_IDS, MAX_VOCAB_SIZE
from shards.manifest import Manifest
from shards.schema import Rows
from train.stream import ShardStream

BOTH = pytest.mark.parametrize("format", sorted(FORMATS))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp("original") / name for name in FORMATS}
    for name, folder in folders.items():
        write_data_set(folder, format=name)
    return folders


def copy(originals: dict[str, Path], tmp_path: Path, format: str = "parquet") -> Path:
    return Path(shutil.copytree(originals[format], tmp_path / "evil", dirs_exist_ok=True))


def readers(folder: Path) -> Iterator[Callable[[], object]]:
    """All that read a data set, in this process: each opens its manifest and the row groups of its first shard."""
    url = str(folder)
    yield lambda: list(ShardStream(url, global_batch=8, micro_batch=4, packed=True, threads=1))
    yield lambda: [read_group(url, m := open_data_set(url), "train", m.splits["train"].shards[0], 0)]
    yield lambda: report(url, 0)


def refused(folder: Path) -> str:
    """The line of the error that every reader ends with."""
    lines = []
    for reader in readers(folder):
        with pytest.raises(UserError) as caught:
            reader()
        lines.append(str(caught.value))
    return " | ".join(lines)


def put(*path: Any, value: Any) -> Callable[[Any], None]:
    def change(manifest: Any) -> None:
        for name in path[:-1]:
            manifest = manifest[name]
        manifest[path[-1]] = value

    return change


SHARD = ("splits", "train", "shards", 0)
LIES = {
    "tokenizer.folder": [put("tokenizer", "folder", value=v) for v in ("a/b/tokenizer", "..", "", 3, None)],
    "tokenizer.files": [
        *(
            put("tokenizer", "files", name, value="0" * 64)
            for name in ("../../planted.sh", "/etc/x", ".bashrc", "model.safetensors")
        ),
        put("tokenizer", "files", value=[]),
    ],
    "tokenizer.vocab_size": [
        put("tokenizer", "vocab_size", value=v) for v in (0, -1, MAX_VOCAB_SIZE + 1, 1 << 31, "9", 9.5, True)
    ],
    "tokenizer.special_ids": [
        put("tokenizer", "special_ids", value={}),
        *(put("tokenizer", "special_ids", "mask", value=v) for v in (-1, 10**9, "x", None, 2**70)),
    ],
    "tokenizer.unused_ids": [
        put("tokenizer", "unused_ids", value=v)
        for v in (
            None,
            "x",
            [[1]],
            [[5, 4]],
            [[7, 7]],
            [[20, 25], [24, 26]],
            [[30, 31], [20, 21]],
            [[3, 1 << 40]],
            [["a", "b"]],
        )
    ],
    "tokenizer.templates": [
        put("tokenizer", "templates", value={}),
        put("tokenizer", "templates", "pair", "prefix", value=[1] * 1000),
        put("tokenizer", "templates", "pair", "between_a", value=float("inf")),
    ],
    "tokenizer": [put("tokenizer", value=v) for v in ([], {}, None, "x")],
    "settings.format": [put("settings", "format", value=v) for v in ("pickle", None, ["parquet"])],
    "settings.pack_to": [put("settings", "pack_to", value=v) for v in ("512", 65_536, 1 << 24, -1, 1)],
    "settings": [put("settings", value=v) for v in ([], None, {})],
    "path": [
        put(*SHARD, "path", value=v)
        for v in (
            7,
            None,
            "../x.parquet",
            "train/../../x.parquet",
            "/etc/passwd",
            "train/a/b.parquet",
            "eval/000000-0000.parquet",
        )
    ],
    "max_row_tokens": [put(*SHARD, "max_row_tokens", value=v) for v in ("x", 1.5, 1 << 24, 1 << 40, 1 << 70, -3)],
    "max_sequence_tokens": [put(*SHARD, "max_sequence_tokens", value=v) for v in (None, "x", -1, 33, 1 << 40)],
    "max_sequences_per_row": [put(*SHARD, "max_sequences_per_row", value=v) for v in (1 << 30, 1)],
    "max_masked_per_row": [put(*SHARD, "max_masked_per_row", value=1 << 28)],
    "row_groups": [
        put(*SHARD, "row_groups", value=v)
        for v in (
            None,
            [],
            "x",
            [[1, 2]],
            [["1", 2, 3]],
            [[1 << 70, 4, 5]],
            [[-1, 4, 5]],
            [[MAX_GROUP_TOKENS, 4, 5]],
            [[40, 4, 1 << 60]],
        )
    ],
    "bytes": [put(*SHARD, "bytes", value=v) for v in (1 << 60, 0, None)],
    "ledger": [put("ledger", value={}), put("ledger", "tokens", value=float("nan")), put("ledger", "corpora", value=[1])],
    "splits": [put("splits", value=v) for v in ({}, [], {"train": {}}, {"train": {}, "eval": {}, "../x": {}})],
}


@pytest.mark.parametrize("field", LIES)
def test_a_manifest_that_lies_is_one_line(field: str, originals: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(originals, tmp_path)
    for lie in LIES[field]:
        manifest = manifest_of(originals["parquet"])
        lie(manifest)
        seal(folder, manifest)
        line = refused(folder)
        assert "\n" not in line.replace(" | ", "") and len(line) < 1500
        assert line.count("evil/manifest.json: ") == 3
        assert verify(str(folder), workers=1)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"[" * 100_000, b'{"format_version": 1e999}', b"\xff", b'{"a": NaN}'])
def test_what_is_no_manifest_is_one_line(data: bytes, originals: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(originals, tmp_path)
    (folder / "manifest.json").write_bytes(data)
    assert "not a manifest" in refused(folder)


def test_unused_ids_are_few_and_no_special_tokens(originals: dict[str, Path], tmp_path: Path) -> None:
    folder, manifest = copy(originals, tmp_path), manifest_of(originals["parquet"])
    tokenizer = manifest["tokenizer"]
    size, special = tokenizer["vocab_size"], set(tokenizer["special_ids"].values())
    free = next(number for number in range(size) if number not in special)
    tokenizer["unused_ids"] = [[free, free + 1]]
    seal(folder, manifest)
    assert open_data_set(str(folder)).tokenizer["unused_ids"] == [[free, free + 1]]
    tokenizer["unused_ids"] = [[0, size]]
    seal(folder, manifest)
    assert refused(folder).count("must not be in the unused ids") == 3
    tokenizer |= {"vocab_size": MAX_VOCAB_SIZE, "id_type": "uint32", "unused_ids": [[size, MAX_VOCAB_SIZE]]}
    seal(folder, manifest)
    assert refused(folder).count(f"must not be beyond {MAX_UNUSED_IDS} ids in all runs") == 3


def set_all(name: str, value: int) -> Callable[[Rows], None]:
    return lambda rows: getattr(rows, name).fill(value)


ROWS = {
    "lengths that do not sum up": (set_all("sequence_lengths", 32), "do not sum"),
    "no tokens": (set_all("sequence_lengths", 0), "do not sum"),
    "a segment longer than its sequence": (set_all("segment_a_lengths", 60_000), "above its sequence's length"),
    "ids beyond the vocabulary": (set_all("input_ids", 65_535), "the vocabulary has"),
    "labels beyond two": (set_all("next_sentence_label", 7), "allowed are 0 and 1"),
    "positions outside the row": (set_all("masked_positions", 65_535), "outside its row"),
    "the same position twice": (set_all("masked_positions", 0), "not strictly ascending"),
    "targets beyond the vocabulary": (set_all("masked_labels", 65_535), "the vocabulary has"),
}


@BOTH
@pytest.mark.parametrize("name", ROWS)
def test_rows_that_lie_reach_no_compiled_loop(name: str, format: str, originals: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(originals, tmp_path, format)
    change, message = ROWS[name]
    change_rows(folder, change)
    assert refused(folder).count(message) == 3
    assert any(message in fault for fault in verify(str(folder), workers=1))


@BOTH
@pytest.mark.parametrize("field", ["max_row_tokens", "max_sequence_tokens", "max_sequences_per_row", "max_masked_per_row"])
def test_a_maximum_that_is_too_small_is_named(field: str, format: str, originals: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(originals, tmp_path, format)
    manifest = manifest_of(folder)
    shard = manifest["splits"]["train"]["shards"][0]
    shard[field] -= 1
    seal(folder, manifest)
    with pytest.raises(UserError, match=r"the manifest allows|must be an integer"):
        next(readers(folder))()  # the only one that reads every row group


def tar_bomb(manifest: Any, group: list[int]) -> tuple[bytes, list[list[int]]]:
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = compressor.flush(zlib.Z_FULL_FLUSH)
    block = compressor.compress(bytes(50 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)  # after a flush it can be repeated
    out, start = bytearray(head + 5 * block), len(head)
    stop = len(out)
    out += compressor.flush()
    return bytes(out), [[manifest["splits"]["train"]["shards"][0]["rows"], start, stop - start]]


def parquet_bomb(manifest: Any, group: list[int]) -> tuple[bytes, list[list[int]]]:
    """The file that `shards.parquet` would write of rows with 80 million zeros."""
    rows = manifest["splits"]["train"]["shards"][0]["rows"]
    length = 80_000_000 // rows
    element = pa.list_(pa.field("element", pa.uint16(), nullable=False))
    values = pa.ListArray.from_arrays(
        np.arange(rows + 1, dtype=np.int32) * length, pa.array(np.zeros(rows * length, np.uint16)), type=element
    )
    schema = pa.schema([pa.field("input_ids", element, nullable=False)], metadata={"format_version": "2"})
    sink = pa.BufferOutputStream()
    options = {"use_dictionary": False, "write_statistics": False, "write_page_checksum": True, "compression": "zstd"}
    with pq.ParquetWriter(sink, schema, **options) as writer:
        writer.write_table(pa.Table.from_arrays([values], schema=schema))
    data = sink.getvalue().to_pybytes()
    column = pq.read_metadata(pa.BufferReader(data)).row_group(0).column(0)
    return data, [[rows, column.data_page_offset, column.total_compressed_size]]


@pytest.mark.parametrize(("format", "bomb"), [("webdataset", tar_bomb), ("parquet", parquet_bomb)])
def test_a_bomb_costs_no_memory(
    format: str, bomb: Callable[[Any, list[int]], tuple[bytes, list[list[int]]]], originals: dict[str, Path], tmp_path: Path
) -> None:
    folder = copy(originals, tmp_path, format)
    manifest = manifest_of(folder)
    put_shard(folder, manifest, *bomb(manifest, []))
    code = "import sys; from shards.dataset import *; m = open_data_set(sys.argv[1])\n"
    code += "try: read_group(sys.argv[1], m, 'train', m.splits['train'].shards[0], 0)\n"
    code += "except UserError as error: print(error)\n"
    code += "print(next(int(line.split()[1]) // 1024 for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False)
    error, megabytes = done.stdout.splitlines()
    assert "cannot be decoded" in error and int(megabytes) < 400, done.stderr


def hole(*path: Any, num_bytes: int) -> Callable[[Path, Any], None]:
    """A file of the data set that claims a size without having it."""

    def change(folder: Path, manifest: Any) -> None:
        with open(folder.joinpath(*path), "r+b") as file:
            file.truncate(num_bytes)

    return change


def shard_with_a_hole(folder: Path, manifest: Any) -> None:
    shard = manifest["splits"]["train"]["shards"][0]
    hole(shard["path"], num_bytes=1 << 40)(folder, manifest)
    shard["bytes"] = 1 << 40


def group_with_a_hole(folder: Path, manifest: Any) -> None:
    shard_with_a_hole(folder, manifest)
    group = manifest["splits"]["train"]["shards"][0]["row_groups"][-1]
    group[2] = (1 << 40) - 1000 - group[1]


def group_after_a_hole(folder: Path, manifest: Any) -> None:
    shard_with_a_hole(folder, manifest)
    group = manifest["splits"]["train"]["shards"][0]["row_groups"][-1]
    group[1] = (1 << 40) - 1000 - group[2]


@pytest.mark.parametrize("change", [shard_with_a_hole, group_with_a_hole, group_after_a_hole])
def test_few_rows_claim_no_large_shard(change: Callable[[Path, Any], None], originals: dict[str, Path], tmp_path: Path) -> None:
    folder, manifest = copy(originals, tmp_path), manifest_of(originals["parquet"])
    change(folder, manifest)
    seal(folder, manifest)
    assert refused(folder).count("row_groups") == 3


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_with_a_hole_is_not_read(name: str, tmp_path: Path, build: Any, corpus: Path) -> None:
    folder = Path(shutil.copytree(build(corpus), tmp_path / "data"))
    hole("tokenizer", name, num_bytes=1 << 40)(folder, None)
    for command in ("verify", "show", "report"):
        done = run_prep(command, folder)
        assert f"{name}: has {1 << 40} bytes, at most" in (done.stdout if command == "verify" else done.stderr)


def rewritten(element: pa.DataType = None, nullable: bool = False, **options: Any) -> Callable[[bytes], bytes]:
    """The same rows as another program might write them as Parquet."""
    usual = {"use_dictionary": False, "write_statistics": False, "write_page_checksum": True, "compression": "zstd"}

    def rewrite(data: bytes) -> bytes:
        table = pq.read_table(pa.BufferReader(data))
        fields = []
        for field in table.schema:
            values = pa.field("element", element or field.type.value_type, nullable=False)
            kind = pa.large_list(values) if options.get("large") else pa.list_(values)
            fields.append(pa.field(field.name, kind, nullable=nullable))
        table = table.cast(pa.schema(fields, metadata=table.schema.metadata))
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, row_group_size=16, **usual | {k: v for k, v in options.items() if k != "large"})
        return sink.getvalue().to_pybytes()

    return rewrite


def with_byte(at: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        place = at % len(data)
        return data[:place] + bytes([data[place] ^ 8]) + data[place + 1 :]

    return change


OTHER_WRITERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "dictionaries": ("parquet", rewritten(use_dictionary=True)),
    "large lists": ("parquet", rewritten(large=True)),
    "columns that may be null": ("parquet", rewritten(nullable=True)),
    "signed numbers": ("parquet", rewritten(element=pa.int32())),
    "deltas": ("parquet", rewritten(column_encoding="DELTA_BINARY_PACKED", element=pa.int32())),
    "pages of version 2": ("parquet", rewritten(data_page_version="2.0")),
    "pages without checksums": ("parquet", rewritten(write_page_checksum=False)),
    "a damaged head of Parquet": ("parquet", with_byte(1)),
    "a damaged head of gzip": ("webdataset", with_byte(1)),
    "an unknown flag of gzip": ("webdataset", with_byte(3)),
    "a damaged checksum of gzip": ("webdataset", with_byte(-8)),
    "a damaged length of gzip": ("webdataset", with_byte(-1)),
}


@pytest.mark.parametrize("name", OTHER_WRITERS)
def test_verify_passes_nothing_that_training_or_other_readers_refuse(
    name: str, originals: dict[str, Path], tmp_path: Path
) -> None:
    """All digests fit, and the decoded rows are the same."""
    form, rewrite = OTHER_WRITERS[name]
    folder = copy(originals, tmp_path, form)
    manifest = manifest_of(folder)
    shard = manifest["splits"]["train"]["shards"][0]
    data = rewrite((folder / shard["path"]).read_bytes())
    groups = None
    if "head" not in name and form == "parquet":
        groups = []
        footer = pq.read_metadata(pa.BufferReader(data))
        for group in map(footer.row_group, range(footer.num_row_groups)):
            columns = [group.column(number) for number in range(group.num_columns)]
            start = min(c.dictionary_page_offset or c.data_page_offset for c in columns)
            groups.append([group.num_rows, start, sum(c.total_compressed_size for c in columns)])
    put_shard(folder, manifest, data, groups)
    assert verify(str(folder), workers=1)


def test_a_footer_that_ends_pyarrow_is_refused(originals: dict[str, Path], tmp_path: Path) -> None:
    """The histogram of levels of a column is longer than its type asks for: pyarrow calls std::terminate."""
    folder = copy(originals, tmp_path)
    manifest = manifest_of(folder)
    shard = manifest["splits"]["train"]["shards"][0]
    data = (folder / shard["path"]).read_bytes()
    at = data.rindex(b"\x3c\x29\x26") + 2  # size_statistics, its first field, and the head of a list of two i64
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") : at] + b"\x36\x00" + data[at + 1 : -8]
    data = data[: -8 - len(footer) + 1] + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    put_shard(folder, manifest, data)
    assert refused(folder).count("histogram of levels") == 3


def mutants(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    draw = random.Random(seed)
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(draw.choice((1, 1, 2, 5))):
            at = draw.randrange(len(changed))
            action = draw.randrange(3)
            if action == 0:
                changed[at] ^= 1 << draw.randrange(8)
            elif action == 1:
                changed[at : at + draw.randrange(1, 9)] = draw.randbytes(draw.randrange(1, 9))
            else:
                changed[at : at + draw.randrange(1, 40)] = b""
        yield bytes(changed)


@BOTH
@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=pytest.mark.long)])
def test_mutants_of_a_shard_are_decoded_or_refused(count: int, format: str, originals: dict[str, Path]) -> None:
    """The manifest's digests would stop them; here they are made to fit."""
    folder = originals[format]
    manifest = open_data_set(str(folder))
    shard, refused = manifest.splits["train"].shards[0], 0
    for data in mutants((folder / shard.path).read_bytes(), count, seed=count):
        try:
            rows = decode(manifest, "train", shard, data)
        except (ValueError, OSError):
            refused += 1
        else:
            assert int(rows.input_ids.max(initial=0)) < manifest.tokenizer["vocab_size"]
    assert refused > count // 4


@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=pytest.mark.long)])
def test_mutants_of_a_manifest_are_read_or_refused(count: int, originals: dict[str, Path]) -> None:
    refused = 0
    for data in mutants((originals["parquet"] / "manifest.json").read_bytes(), count, seed=count):
        try:
            manifest, _ = Manifest.from_json(data, "manifest.json")
        except UserError:
            refused += 1
        else:
            assert all(Path(shard.path).parts[0] in manifest.splits for shard in manifest.splits["train"].shards)
    assert refused > count // 4


def test_the_gate_knows_the_recipes() -> None:
    assert set(PAIRINGS) == set(RECIPES)
    assert {name: output.SUFFIX for name, output in FORMATS.items()} == SUFFIXES
    assert "token" in MASK_UNITS


@pytest.mark.parametrize("command", ["verify", "show", "report"])
def test_a_stranger_gets_one_line_of_each_command(command: str, originals: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(originals, tmp_path)
    manifest = manifest_of(folder)
    put("tokenizer", "files", "../../planted.sh", value=sha256(b"").hexdigest())(manifest)
    seal(folder, manifest)
    done = run_prep(command, folder)
    line = done.stdout if command == "verify" else done.stderr
    assert done.returncode == (1 if command == "verify" else 2) and line.count("\n") == 1 and "must name none but" in line

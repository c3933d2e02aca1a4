"""Builds from the command line: the same data however they are made, and readable by other people's code."""

import glob
import gzip
import io
import json
import os
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import manifest_of, run_prep
from conftest import BuildRunner

from shards.formats import FORMATS
from shards.manifest import SPLITS, Manifest
from shards.schema import Rows, columns_sha256


def read_rows(out: Path, split: str = "train") -> list[Rows]:
    manifest, faults = Manifest.from_json((out / "manifest.json").read_bytes(), str(out))
    assert not faults
    output = FORMATS[manifest.settings["format"]]
    return [output.read(str(out / shard.path), shard.row_groups) for shard in manifest.splits[split].shards]


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory, corpus: Path, vocabulary: Path) -> Path:
    folder = tmp_path_factory.mktemp("baseline")
    places = ("--corpus", corpus, "--out", folder / "out", "--scratch", folder / "scratch")
    done = run_prep("build", *places, "--tokenizer", vocabulary, "--workers", 1, "--shard-bytes", "200KB")
    assert done.returncode == 0, done.stderr
    return folder / "out"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--workers", 2),
        ("--workers", 4),
        ("--tokenizer-engine", "reference"),
        ("--format", "webdataset"),
    ],
    ids=lambda arguments: "-".join(map(str, arguments)).strip("-"),
)
def test_the_data_do_not_depend_on_how_they_are_made(
    arguments: tuple[object, ...], baseline: Path, corpus: Path, build: BuildRunner
) -> None:
    out = build(corpus, "--shard-bytes", "200KB", *arguments)
    found, expected = manifest_of(out), manifest_of(baseline)
    assert found["data_fingerprint"] == expected["data_fingerprint"]
    assert found["ledger"] == expected["ledger"]
    for split in SPLITS:
        shards = zip(found["splits"][split]["shards"], expected["splits"][split]["shards"], strict=True)
        assert all(a["columns_sha256"] == b["columns_sha256"] for a, b in shards)
        if "webdataset" not in arguments:
            assert found["splits"][split] == expected["splits"][split]


def test_nor_on_where_the_corpus_lies(baseline: Path, corpus: Path, build: BuildRunner, tmp_path: Path) -> None:
    moved = tmp_path / "else where" / corpus.name
    moved.parent.mkdir()
    shutil.copyfile(corpus, moved)
    os.utime(moved, (1, 1))
    assert manifest_of(build(f"file://{moved}", "--shard-bytes", "200KB")) == manifest_of(baseline)


def test_the_counts_of_the_manifest_are_those_of_the_rows(baseline: Path, corpus: Path) -> None:
    manifest = manifest_of(baseline)
    for name in SPLITS:
        split, rows = manifest["splits"][name], read_rows(baseline, name)
        assert split["rows"] == sum(map(len, rows)) > 0
        assert split["sequences"] == sum(len(r.sequence_lengths) for r in rows)
        assert split["tokens"] == sum(len(r.input_ids) for r in rows)
        assert split["masked_tokens"] == sum(len(r.masked_labels) for r in rows if r.masked_labels is not None)
        assert split["not_next"] == sum(int(r.next_sentence_label.sum()) for r in rows if r.next_sentence_label is not None)
        assert 0 < split["forced_not_next"] <= split["not_next"]
        assert split["max_row_tokens"] == max(int(np.diff(r.token_offsets).max()) for r in rows) <= 512
    assert len(manifest["splits"]["train"]["shards"]) > 3
    text = corpus.read_text(encoding="utf8").splitlines()
    assert manifest["ledger"]["documents"] == {"in": len(text), "used": len(text), "dropped": {}}
    assert manifest["ledger"]["bytes"]["in"] == sum(len(line.encode()) for line in text)


def test_no_document_is_in_both_splits(baseline: Path) -> None:
    """The corpus holds every paragraph three times, and all copies go to one side."""
    ledger = manifest_of(baseline)["ledger"]
    assert ledger["pairs"]["eval"]["documents"] % 3 == 0 and ledger["pairs"]["train"]["documents"] % 3 == 0
    assert ledger["pairs"]["eval"]["documents"] >= 8
    assert ledger["pairs"]["eval"]["documents"] + ledger["pairs"]["train"]["documents"] == ledger["documents"]["used"]


def test_every_input_format_gives_the_same_documents(paragraphs: list[str], build: BuildRunner, tmp_path: Path) -> None:
    texts = paragraphs[:400]
    records = [json.dumps({"id": i, "text": text}) for i, text in enumerate(texts)]
    (tmp_path / "a.txt").write_text("\n".join(texts), encoding="utf8")
    (tmp_path / "a.jsonl").write_text("\n".join(records))
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write("\n".join(records))
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    ledgers = []
    for name in ("a.txt", "a.jsonl", "b.jsonl.gz", "a.parquet"):
        ledger = manifest_of(build(tmp_path / name, name=f"out-{name}"))["ledger"]
        ledgers.append({key: ledger[key] for key in ("documents", "bytes", "sentences", "tokens", "duplicates")})
    assert all(ledger == ledgers[0] for ledger in ledgers)


def test_a_folder_and_a_glob_are_the_same_corpus_and_a_list_of_files_is_one_in_any_order(
    paragraphs: list[str], build: BuildRunner, tmp_path: Path
) -> None:
    folder = tmp_path / ".home" / "texts[1]"
    (folder / "sub").mkdir(parents=True)
    (folder / ".hidden").write_text("not this\n")
    (folder / "_SUCCESS").touch()
    files = [folder / "b.txt", folder / "sub" / "a.txt", folder / "c.txt"]
    for number, file in enumerate(files):
        file.write_text("\n".join(paragraphs[number * 100 : number * 100 + 100]), encoding="utf8")
    by_folder = build(folder, "--tokenizer", "train:500", name="folder")
    by_glob = build(f"file://{glob.escape(str(folder))}/**/*.txt", "--tokenizer", "train:500", name="glob")
    assert manifest_of(by_folder)["data_fingerprint"] == manifest_of(by_glob)["data_fingerprint"]
    orders = (files, files[::-1])
    lists = [build("", "--corpus", *order, "--tokenizer", "train:500", name=order[0].name) for order in orders]
    assert manifest_of(lists[0])["data_fingerprint"] == manifest_of(lists[1])["data_fingerprint"]


def test_a_finished_data_set_is_left_and_other_settings_are_refused(corpus: Path, build: BuildRunner, tmp_path: Path) -> None:
    out = build(corpus)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = build(corpus)
    assert {path: path.stat().st_mtime_ns for path in again.rglob("*")} == before
    places = ("--corpus", corpus, "--out", out, "--scratch", tmp_path / "scratch")
    tokenizer = ("--tokenizer", out / "tokenizer" / "tokenizer.json")
    finished = run_prep("build", *places, *tokenizer)
    assert finished.returncode == 0 and "is finished; it was left as it is" in finished.stderr
    refused = run_prep("build", *places, *tokenizer, "--seed", 5, "--mask-prob", 0.2)
    assert refused.returncode == 2
    assert "mask_prob: 0.15 -> 0.2; seed: 0 -> 5" in refused.stderr and refused.stderr.count("\n") == 1
    corpus_changed = tmp_path / corpus.name
    corpus_changed.write_text(corpus.read_text(encoding="utf8") + "One more.\n", encoding="utf8")
    other = run_prep("build", "--corpus", corpus_changed, *places[2:], *tokenizer)
    assert other.returncode == 2 and f"inputs: {corpus.name}: {corpus.stat().st_size} -> " in other.stderr
    (out / "manifest.json").unlink()
    claim = json.loads((out / "build.json").read_text())
    (out / "build.json").write_text(json.dumps(claim | {"recipe_version": 1}))
    older = run_prep("build", *places, *tokenizer)
    assert older.returncode == 2 and older.stderr.count("\n") == 1
    assert f"--out {out}: was built with recipe version 1; this release has version 2, which gives other data" in older.stderr


def test_a_later_build_of_the_corpus_reuses_its_tokens(corpus: Path, build: BuildRunner, tmp_path: Path) -> None:
    build(corpus)
    stores = {path: path.stat().st_mtime_ns for path in (tmp_path / "scratch").glob("tokens-*/*")}
    assert any(path.suffix == ".tokens" for path in stores)
    build(corpus, "--max-seq-len", 64, "--seed", 4, "--copies", 2, "--masking", "dynamic", name="second")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "scratch").glob("tokens-*/*")} == stores


def test_copies_pair_and_mask_anew(paragraphs: list[str], build: BuildRunner, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(paragraphs[:300]), encoding="utf8")
    one, two = build(tmp_path / "a.txt", name="one"), build(tmp_path / "a.txt", "--copies", 2, name="two")
    single, double = manifest_of(one), manifest_of(two)
    assert double["ledger"]["pairs"]["train"]["made"] == 2 * single["ledger"]["pairs"]["train"]["made"]
    assert double["splits"]["eval"] == {**single["splits"]["eval"], "shards": double["splits"]["eval"]["shards"]}
    first, second = read_rows(two)
    assert columns_sha256(first) == columns_sha256(read_rows(one)[0]) != columns_sha256(second)
    assert run_prep("verify", two).returncode == 0


def test_unpacked_and_dynamic(paragraphs: list[str], build: BuildRunner, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(paragraphs[:300]), encoding="utf8")
    plain = build(tmp_path / "a.txt", "--pack-to", 0, name="plain")
    packed = build(tmp_path / "a.txt", name="packed")
    dynamic = build(tmp_path / "a.txt", "--masking", "dynamic", name="dynamic")
    assert all(len(rows) == len(rows.sequence_lengths) for rows in read_rows(plain))

    def sequences(out: Path) -> list[bytes]:
        return sorted(rows.input_ids[a:b].tobytes() for rows in read_rows(out) for a, b in pairwise(rows.sequence_starts()))

    assert sequences(plain) == sequences(packed)
    assert all(rows.masked_positions is None for rows in read_rows(dynamic))
    assert all(rows.masked_positions is not None for rows in read_rows(dynamic, "eval"))
    assert all(run_prep("verify", out).returncode == 0 for out in (plain, packed, dynamic))


def test_a_vocabulary_over_65536_entries_takes_wider_ids(paragraphs: list[str], build: BuildRunner, tmp_path: Path) -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted({word for text in paragraphs[:300] for word in text.lower().split() if word.isalpha()})
    filler = [f"zzz{i}" for i in range(66_000)]
    (tmp_path / "vocab.txt").write_text("\n".join([*special, *filler, *words, *".,;"]) + "\n", encoding="utf8")
    (tmp_path / "a.txt").write_text("\n".join(paragraphs[:300]), encoding="utf8")
    for name in FORMATS:
        out = build(tmp_path / "a.txt", "--tokenizer", tmp_path / "vocab.txt", "--format", name, name=name)
        assert manifest_of(out)["tokenizer"]["id_type"] == "uint32"
        assert all(rows.input_ids.dtype == np.uint32 and rows.input_ids.max() > 65_536 for rows in read_rows(out))
        assert run_prep("verify", out).returncode == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
def test_other_peoples_readers_see_the_same_rows(build: BuildRunner, paragraphs: list[str], tmp_path: Path) -> None:
    import datasets
    import webdataset

    (tmp_path / "a.txt").write_text("\n".join(paragraphs[:600]), encoding="utf8")
    parquet = build(tmp_path / "a.txt", name="parquet")
    tar = build(tmp_path / "a.txt", "--format", "webdataset", name="tar")
    files = [str(parquet / shard["path"]) for shard in manifest_of(parquet)["splits"]["train"]["shards"]]
    plain = pq.ParquetDataset(files).read().to_pylist()
    hub = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    urls = [str(tar / shard["path"]) for shard in manifest_of(tar)["splits"]["train"]["shards"]]
    samples = [sample["npz"] for sample in webdataset.WebDataset(urls, shardshuffle=False).decode()]
    assert plain == list(hub) == [{name: values.tolist() for name, values in sample.items()} for sample in samples]
    assert len(plain) == manifest_of(parquet)["splits"]["train"]["rows"]


def test_golden_rows_of_a_small_data_set(build: BuildRunner, tmp_path: Path) -> None:
    """A change here is a change of the format or of the recipe: raise its version when it is meant, then UPDATE_GOLDEN=1."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", ".", "!"]
    (tmp_path / "vocab.txt").write_text("\n".join([*special, *words]) + "\n")
    documents = [" ".join(f"{words[(d + s) % 12]} {words[(d * s) % 12]} {words[s]}." for s in range(8)) for d in range(12)]
    (tmp_path / "a.txt").write_text("\n".join(text.replace(". ", ". One ").title() for text in documents) + "\n")
    arguments = ("--tokenizer", tmp_path / "vocab.txt", "--max-seq-len", 16, "--pack-to", 32, "--seed", 7)
    out = build(tmp_path / "a.txt", *arguments)
    manifest, golden = manifest_of(out), Path(__file__).with_name("golden") / "small.json"
    rows = [{name: values.tolist() for name, _, values in part.slice(0, 2).columns()} for part in read_rows(out)]
    for varies in ("made_with", "sha256"):
        manifest.pop(varies)
    for split in manifest["splits"].values():
        split.pop("bytes")
        for shard in split["shards"]:
            for varies in ("bytes", "sha256", "row_groups"):
                shard.pop(varies)
    found = {"rows": rows, "manifest": manifest}
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(json.dumps(found, indent=1))
    assert found == json.loads(golden.read_text())


def test_the_tokenizer_beside_the_shards_is_complete(baseline: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(baseline / "tokenizer" / "tokenizer.json"))
    special = manifest_of(baseline)["tokenizer"]["special_ids"]
    assert {role: tokenizer.token_to_id(f"[{role.upper()}]") for role in special} == special
    assert io.StringIO((baseline / "tokenizer" / "vocab.txt").read_text()).readline() == "[PAD]\n"

"""Storage on a disk, in memory, and on a real S3-compatible server over the network stack."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs
from commands import manifest_of, run_prep
from conftest import BuildRunner
from containers import texts_of

from prep.corpus.documents import Rule, Span
from prep.corpus.files import Corpus, list_inputs
from prep.corpus.read import read_documents, read_texts
from shards import storage
from shards.storage import MissingError, StorageError
from shards.storage.on_fsspec import file_info


@pytest.fixture(params=["disk", "file url", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "memory":
        yield "memory://root"
        fsspec.filesystem("memory").store.clear()
    else:
        yield ("file://" if request.param == "file url" else "") + str(tmp_path / "root")


def test_what_is_published_is_found_read_and_listed(root: str) -> None:
    url = storage.join(root, "a", "b.bin")
    assert storage.find(url) is None and storage.list_files(root) == []
    storage.publish(url, b"0123456789")
    storage.publish(url, memoryview(b"abcdefghij"))
    info = storage.find(url)
    assert info is not None and info.bytes == 10 and info.version
    assert storage.find(storage.join(root, "a")) is None
    assert storage.read_bytes(url) == b"abcdefghij"
    assert storage.read_bytes(url, 3, 4) == b"defg"
    out = bytearray(4)
    storage.read_into(url, 3, memoryview(out))
    assert out == b"defg"
    with storage.open_read(url) as file:
        assert file.seek(8) == 8 and file.read() == b"ij"
    assert [found.bytes for found in storage.list_files(root)] == [10]
    assert [found.bytes for found in storage.glob(storage.join(root, "*", "*.bin"))] == [10]
    storage.remove(url)
    storage.remove(url)
    assert storage.find(url) is None


def test_a_read_past_the_end_and_a_missing_file_are_named(root: str) -> None:
    url = storage.join(root, "a.bin")
    storage.publish(url, b"short")
    with pytest.raises(StorageError, match=r"a\.bin: ends at byte 5, expected 20"):
        storage.read_bytes(url, 0, 20)
    with pytest.raises(StorageError, match=r"a\.bin: ends at byte 5, expected 20"):
        storage.read_into(url, 2, memoryview(bytearray(18)))
    for read in (storage.read_bytes, lambda gone: storage.open_read(gone).__enter__()):
        with pytest.raises(StorageError, match=r"gone: cannot .* it"):
            read(storage.join(root, "gone"))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock: the disk cannot be filled here; it fails where a full one does, when the data are flushed to it."""
    path = tmp_path / "a.bin"
    storage.publish(str(path), b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"a\.bin: cannot write it: No space left on device; free some space"):
        storage.publish(str(path), b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_files_are_written_in_the_background_one_at_a_time_and_all_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, most, written = 0, 0, []
    may_write = threading.Event()

    def slow(url: str, data: bytes) -> None:
        nonlocal writing, most
        writing += 1
        most = max(most, writing)
        assert may_write.wait(60)
        written.append((url, data))
        writing -= 1

    monkeypatch.setattr("shards.storage.files.publish", slow)
    with storage.publish_in_background() as publish:
        publish("a", b"1")
        assert not written, "it does not wait for the file"
        may_write.set()
        for number in range(20):
            publish(str(number), b"2")
    assert most == 1 and written == [("a", b"1"), *((str(number), b"2") for number in range(20))]


@pytest.mark.parametrize("last", [True, False])
def test_a_file_that_cannot_be_written_in_the_background_is_an_error(tmp_path: Path, last: bool) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file/below: cannot write it"), storage.publish_in_background() as publish:
        publish(str(tmp_path / "file" / "below"), b"1")
        if not last:
            publish(str(tmp_path / "other"), b"2")
    assert not (tmp_path / "other").exists()


def test_a_missing_object_takes_one_request(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = s3fs.S3FileSystem._call_s3

    async def call(fs: Any, method: str, *arguments: Any, **options: Any) -> Any:
        made.append(method)
        return await original(fs, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", call)
    with pytest.raises(MissingError, match="s3://bucket/none: cannot read it"):
        storage.read_bytes("s3://bucket/none")
    assert made == ["get_object"], "a task looks for its record so"


def test_a_build_in_a_bucket_is_the_build_on_a_disk(bucket: Any, corpus: Path, vocabulary: Path, build: BuildRunner) -> None:
    client = bucket
    client.upload_file(str(corpus), "bucket", f"texts/{corpus.name}")
    client.upload_file(str(vocabulary), "bucket", "tokenizer.json")
    places = ("--out", "s3://bucket/out", "--scratch", "s3://bucket/scratch", "--workers", 2)
    done = run_prep("build", "--corpus", "s3://bucket/texts/*.txt", *places, "--tokenizer", "s3://bucket/tokenizer.json")
    assert done.returncode == 0, done.stderr
    local = manifest_of(build(corpus))
    assert f"data_fingerprint {local['data_fingerprint']}" in done.stderr
    assert run_prep("verify", "s3://bucket/out").returncode == 0
    import json

    remote = json.loads(client.get_object(Bucket="bucket", Key="out/manifest.json")["Body"].read())
    assert remote == local
    again = run_prep("build", "--corpus", "s3a://bucket/texts/*.txt", *places, "--tokenizer", "s3://bucket/tokenizer.json")
    assert again.returncode == 0 and "is finished" in again.stderr
    refused = run_prep("build", "--corpus", "s3://nobucket/texts", "--out", "s3://nobucket/out", "--workers", 1)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "Traceback" not in refused.stderr
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket="bucket", Prefix="out/")["Contents"]]
    assert "out/manifest.json" in keys and not any("_build" in key for key in keys)


@pytest.mark.parametrize(
    "name", ["std::vector.txt", "a::b", "s3:x", "12:30 s3:bucket.txt", "a?b", "a[1]b", "a#b", "%41", "memory::x"]
)
def test_what_is_listed_on_a_disk_is_a_path_whatever_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (str(tmp_path / name), name):
        url = storage.join(folder, name)
        storage.publish(url, b"text")
        listed = storage.list_files(folder)
        assert [info.bytes for info in listed] == [4]
        assert storage.read_bytes(listed[0].url) == b"text" and storage.find(listed[0].url)
        with storage.open_read(listed[0].url) as file:
            assert file.read() == b"text"
        assert storage.relative(listed[0].url, folder) == name and storage.is_local(url)
        assert [info.bytes for info in storage.glob(f"{tmp_path}/*/*")] == [4]
        storage.remove(url)


def test_a_chain_of_urls_is_refused_by_name() -> None:
    with pytest.raises(StorageError, match=r"zip::memory:// is no known kind of storage"):
        storage.find("zip::memory://a.zip")


@pytest.mark.parametrize("etag", ['"0x8D"', "0x8D", 'W/"0x8D"'])
@pytest.mark.parametrize("field", ["ETag", "etag"])
def test_a_listing_and_a_request_of_a_file_give_one_version(field: str, etag: str) -> None:
    entry = {"name": "/a", "size": 1, "type": "file", field: etag, "last_modified": "now"}
    assert file_info(fsspec.filesystem("memory"), entry).version == "0x8D"


@pytest.mark.parametrize(
    "url", ["s3://bucket/texts", "s3://bucket/texts/*.txt", "s3://bucket/texts/**", "s3://bucket/texts/a.txt"]
)
def test_files_in_a_bucket_are_read_as_they_were_listed(url: str, bucket: Any) -> None:
    for name in ("a", "b", "c"):
        bucket.put_object(Bucket="bucket", Key=f"texts/{name}.txt", Body=f"words of {name}\n".encode())
    files = list_inputs(Corpus([url]))
    assert all(file.version for file in files) and len(files) == (1 if url.endswith("a.txt") else 3)
    for file in files:
        assert texts_of(list(read_documents(Span(file), Rule("line", "text")))) == [f"words of {Path(file.name).stem}"]


def test_an_object_that_is_rewritten_during_a_build_stops_it_by_name(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        body = "".join(f"The words of {name}, line {i}. More of it.\n" for i in range(50))
        bucket.put_object(Bucket="bucket", Key=f"texts/{name}.txt", Body=body.encode())

    def build(corpus: str, name: str) -> Any:
        places = ("--out", tmp_path / name, "--scratch", tmp_path / f"{name}-scratch", "--tokenizer", "train:100")
        return run_prep("build", "--corpus", corpus, *places)

    for corpus, name in (("s3://bucket/texts", "folder"), ("s3://bucket/texts/*.txt", "pattern")):
        done = build(corpus, name)
        assert done.returncode == 0, done.stderr

    def rewriting(span: Span, *arguments: Any) -> Iterator[Any]:
        for item in read_texts(span, *arguments):
            if span.file.name.endswith("b.txt"):
                bucket.put_object(Bucket="bucket", Key="texts/b.txt", Body=b"x" * span.file.bytes)
            yield item

    monkeypatch.setattr("prep.tokens.batches.read_texts", rewriting)
    done = build("s3://bucket/texts", "rewritten")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "s3://bucket/texts/b.txt: was changed after it was listed; run the same command again" in done.stderr

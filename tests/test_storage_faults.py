"""Storage on servers that fail: everything here goes over the network stack to a real one, through a proxy with faults."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import launch
import pytest
import s3fs
from commands import HANG_S, ROOT, manifest_of, run_prep
from conftest import BuildRunner
from faulty_proxy import FaultyProxy
from launch import SMALL
from nanio_server import KEYS, NanioServer

from shards import storage
from shards.storage import StorageError, faults, reading

MB = 1 << 20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NanioServer]:
    server = NanioServer(tmp_path_factory.mktemp("nanio"), free_port())
    (server.folder / "bucket").mkdir()
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(shared_server: NanioServer, proxy: FaultyProxy) -> NanioServer:
    return shared_server


@pytest.fixture
def proxy(shared_server: NanioServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """What `s3://` means in this test, here and in the processes it starts: the server behind a proxy."""
    found = FaultyProxy(shared_server.port)
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": found.url}).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    yield found
    found.close()
    s3fs.S3FileSystem.clear_instance_cache()


def test_throttled_and_cut_requests_are_made_again(proxy: FaultyProxy) -> None:
    proxy.busy_share, proxy.cut_share, proxy.cut_after = 0.2, 0.2, 700
    contents = {f"s3://bucket/again/{n:02}": bytes([n]) * 5000 for n in range(6)}
    for url, data in contents.items():
        storage.publish(url, data)
    assert [info.url for info in storage.list_files("s3://bucket/again")] == list(contents)
    assert {url: storage.read_bytes(url) for url in contents} == contents
    for url in contents:
        storage.remove(url)
    assert storage.list_files("s3://bucket/again") == []
    assert proxy.refusals and proxy.cuts


def test_a_stream_goes_on_where_its_connection_was_cut(proxy: FaultyProxy) -> None:
    data = os.urandom(20 * MB)
    storage.publish("s3://bucket/stream", data)
    proxy.cut_share, proxy.cut_after = 0.5, 3 * MB
    with storage.open_read("s3://bucket/stream") as file:
        parts = [file.read(3 * MB) for _ in range(4)]
        file.seek(-MB, os.SEEK_END)
        assert file.read() == data[-MB:]
        file.seek(12 * MB)
        assert b"".join(parts) + file.read() == data
    assert proxy.cuts


def test_a_large_object_comes_in_parts(proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PART_BYTES", MB)
    data = os.urandom(4 * MB)
    storage.publish("s3://bucket/parts", data)
    proxy.cut_share, proxy.cut_after = 0.5, MB // 2
    assert storage.read_bytes("s3://bucket/parts") == data
    assert storage.read_bytes("s3://bucket/parts", 5, 3 * MB) == data[5 : 5 + 3 * MB]
    assert proxy.cuts
    with pytest.raises(StorageError, match="ends at byte 4194304, expected 5242880"):
        storage.read_bytes("s3://bucket/parts", 3 * MB, 2 * MB)


def test_an_empty_object_is_read(proxy: FaultyProxy) -> None:
    storage.publish("s3://bucket/empty", b"")
    assert storage.read_bytes("s3://bucket/empty") == b""
    with storage.open_read("s3://bucket/empty") as file:
        assert file.read() == b""


def test_operations_go_on_when_the_server_is_back(server: NanioServer) -> None:
    storage.publish("s3://bucket/back/a", b"a")
    server.kill()
    later = threading.Timer(2.0, server.start)
    later.start()
    try:
        storage.publish("s3://bucket/back/b", b"b")
    finally:
        later.join()
    assert storage.read_bytes("s3://bucket/back/a") + storage.read_bytes("s3://bucket/back/b") == b"ab"


def test_a_server_that_stays_away_ends_in_one_line(proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(faults, "FIRST_CONTACT_S", 0.5)
    monkeypatch.setattr(faults, "_answered", set())
    with pytest.raises(StorageError, match=r"^s3://bucket/x: cannot write it: .*check the address and that the server is up"):
        storage.publish("s3://bucket/x", b"x")


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_final(proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    storage.publish("s3://bucket/closed/a", b"a")
    monkeypatch.setenv(name, "wrong-one")
    s3fs.S3FileSystem.clear_instance_cache()
    before = proxy.requests
    for act in (
        lambda: storage.find("s3://bucket/closed/a"),
        lambda: storage.read_bytes("s3://bucket/closed/a"),
        lambda: storage.list_files("s3://bucket/closed"),
        lambda: storage.publish("s3://bucket/closed/b", b"b"),
        lambda: storage.open_read("s3://bucket/closed/a").__enter__(),
    ):
        with pytest.raises(StorageError, match=r"^s3://bucket/closed.*; check the credentials \(AWS_ACCESS_KEY_ID") as caught:
            act()
        assert not isinstance(caught.value, storage.MissingError) and "not-told" not in str(caught.value)
    assert proxy.requests - before <= 10  # no more than each asks once, and s3fs of the region


def test_no_credentials_at_all_are_asked_for(proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageError, match=r"^s3://bucket/a: .*; set credentials \(AWS_ACCESS_KEY_ID"):
        storage.publish("s3://bucket/a", b"a")


def test_a_bucket_that_is_not_there_is_final(proxy: FaultyProxy) -> None:
    with pytest.raises(StorageError, match=r"^s3://nobucket/a: cannot write it: .*there is no such bucket"):
        storage.publish("s3://nobucket/a", b"a")
    with pytest.raises(storage.MissingError):
        storage.read_bytes("s3://nobucket/a")
    with pytest.raises(storage.MissingError, match="no such bucket"):
        storage.list_files("s3://nobucket/a")
    assert storage.find("s3://nobucket/a") is None


def test_a_large_upload_that_fails_half_way_leaves_what_was_there(proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.publish("s3://bucket/large", b"old")
    monkeypatch.setattr(faults, "DEADLINE_S", 0.0)
    proxy.cut_share, proxy.cut_after = 1.0, 8 * MB
    with pytest.raises(StorageError, match=r"^s3://bucket/large: cannot write it"):
        storage.publish("s3://bucket/large", bytes(110 * MB))
    proxy.cut_share = 0.0
    assert storage.read_bytes("s3://bucket/large") == b"old"
    monkeypatch.undo()


def test_a_build_through_faults_is_the_build_on_a_disk(
    proxy: FaultyProxy, server: NanioServer, paragraphs: list[str], vocabulary: Path, build: BuildRunner, tmp_path: Path
) -> None:
    text = tmp_path / "texts" / "paragraphs.txt"
    text.parent.mkdir()
    text.write_text("\n".join(paragraphs[:1500]), encoding="utf8")
    storage.publish("s3://bucket/texts/paragraphs.txt", text.read_bytes())
    arguments = ("--corpus", "s3://bucket/texts", "--tokenizer", vocabulary, "--out", "s3://bucket/built/out")
    arguments += ("--scratch", "s3://bucket/built/scratch", "--workers", 1)

    # The server dies when the build has begun. Less patience is told to its workers too, as Python starts.
    (tmp_path / "sitecustomize.py").write_text(
        "from shards.storage import faults\nfaults.DEADLINE_S = faults.FIRST_CONTACT_S = 1.0\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "prep", "build", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    while not list(server.object("built/scratch").glob("tokenizer-*/tokenizer.json")):  # what is there before a worker starts
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)  # killed between an object and its metadata, this server is broken for good
    server.kill()
    _, said = process.communicate(timeout=HANG_S)
    server.start()
    assert process.returncode == 2 and "Traceback" not in said
    assert [line for line in said.splitlines() if "error: s3://bucket/" in line and "run the same command again" in line]
    assert not any(path.suffix == ".parquet" for path in server.object("built").rglob("*"))

    proxy.busy_share, proxy.cut_share, proxy.cut_after = 0.1, 0.1, 20_000
    done = run_prep("build", *arguments)
    assert done.returncode == 0, done.stderr
    assert proxy.cuts or proxy.refusals
    proxy.busy_share = proxy.cut_share = 0.0
    found = json.loads(storage.read_bytes("s3://bucket/built/out/manifest.json"))
    assert found == manifest_of(build(text.parent))


def test_damaged_objects_of_a_data_set_are_named(
    proxy: FaultyProxy, server: NanioServer, build: BuildRunner, corpus: Path, tmp_path: Path
) -> None:
    out = build(corpus)
    for path in out.rglob("*"):
        if path.is_file():
            storage.publish(f"s3://bucket/damaged/{path.relative_to(out)}", path.read_bytes())
    cut, changed = (shard["path"] for shard in manifest_of(out)["splits"]["train"]["shards"][:2])
    storage.publish(f"s3://bucket/damaged/{cut}", (out / cut).read_bytes()[:-100])
    data = bytearray((out / changed).read_bytes())
    data[1000] ^= 1
    server.object(f"damaged/{changed}").write_bytes(data)
    verified = run_prep("verify", "s3://bucket/damaged", "--workers", 1)
    assert verified.returncode == 1 and "Traceback" not in verified.stdout + verified.stderr
    assert f"s3://bucket/damaged/{cut}: has {(out / cut).stat().st_size - 100} bytes, the manifest says" in verified.stdout
    assert f"s3://bucket/damaged/{changed}: its sha256 is not the manifest's" in verified.stdout
    asked = ("--data", "s3://bucket/damaged", "--out", tmp_path / "run", "--model", "tiny", "--steps", 1, *SMALL)
    code, _, said = launch.run(0, *asked)
    assert code == 2 and "Traceback" not in said
    assert f"s3://bucket/damaged/{cut}: has {(out / cut).stat().st_size - 100} bytes, the manifest says" in said

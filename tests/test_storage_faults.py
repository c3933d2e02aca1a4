"""Storage on servers that fail: everything here goes over the network stack to a real one, through a proxy with faults."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest
import s3fs
from faulty_proxy import FaultyProxy
from nanio_server import KEYS, NanioServer

from shards import faults, storage
from shards.storage import StorageError

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
    monkeypatch.setattr(storage, "_PART_BYTES", MB)
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

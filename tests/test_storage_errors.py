"""What is said when a storage cannot be used at all, what is kept secret, and servers of plain HTTP."""

import functools
import http.server
import importlib.metadata
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
from commands import HANG_S, ROOT, run_prep
from containers import texts_of
from faulty_proxy import FaultyProxy
from hub_server import serve
from test_storage_faults import MB, free_port

from prep.corpus.documents import Rule, Span
from prep.corpus.files import Corpus, list_inputs
from prep.corpus.read import read_documents
from shards import storage
from shards.errors import UserError
from shards.storage import MissingError, StorageError, faults
from shards.storage.redaction import redacted


@pytest.mark.parametrize(
    ("shown", "url"),
    [
        ("https://***@host/a", "https://me:pass@host/a"),
        ("https://***@host/a", "https://me:pa/ss@host/a"),
        ("s3://***@host/a", "s3://me:p@ss@host/a"),
        ("https://***@host/a?pwd=***", "https://ghp_token@host/a?pwd=x"),
        ("https://h/a?x=1&sig=***&y=2", "https://h/a?x=1&sig=Zm9v%3D&y=2"),
        ("https://h/a?X-Amz-Credential=***&X-Amz-Signature=***", "https://h/a?X-Amz-Credential=AK%2F1&X-Amz-Signature=ab12"),
        ("https://h/a?AWSAccessKeyId=***&Signature=***", "https://h/a?AWSAccessKeyId=AKIA&Signature=x"),
        ("https://h/a?access_token=***: gone", "https://h/a?access_token=hf_x: gone"),
        ("abfs://container@account.dfs.core.windows.net/a?b", "abfs://container@account.dfs.core.windows.net/a?b"),
        ("s3://bucket/a:b@c, and more@here", "s3://bucket/a:b@c, and more@here"),
        ("ftp://***@host/a", "ftp://SECRET@host/a"),
        ("https://***@host/a", "https://us'er:p\"w@host/a"),
        ("https://***@host/a", "https://user:two words@host/a"),
        ("https://h/a?code=***", "https://h/a?code=4/0Ab"),
        ("https://h/a?sas=***&x=1", "https://h/a?sas=abc&x=1"),
        ("https://h/a#access_token=***", "https://h/a#access_token=hf_x"),
        ("https://h/a;token=***", "https://h/a;token=hf_x"),
        ("https://h/a?x=1&amp;sig=***", "https://h/a?x=1&amp;sig=Zm9v"),
        ("AccountName=me;AccountKey=***;EndpointSuffix=x", "AccountName=me;AccountKey=Zm9vYmFy==;EndpointSuffix=x"),
        ("see https://host/a: it is gone; ask a@b", "see https://host/a: it is gone; ask a@b"),
    ],
)
def test_secrets_of_urls_are_not_shown(shown: str, url: str) -> None:
    assert redacted(url) == shown


class Plain(http.server.SimpleHTTPRequestHandler):
    """Whole files only: it knows no ranges."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, FaultyProxy]]:
    """A folder that is served, and the proxy before its server."""
    folder = tmp_path / "web"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Plain, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    proxy = FaultyProxy(server.server_port)
    yield folder, proxy
    proxy.close()
    server.shutdown()
    server.server_close()
    fsspec.filesystem("http").clear_instance_cache()


def test_a_web_server_that_fails_is_asked_again(web: tuple[Path, FaultyProxy]) -> None:
    folder, proxy = web
    data = os.urandom(2 * MB)
    (folder / "a.bin").write_bytes(data)
    proxy.busy_share, proxy.cut_share, proxy.cut_after = 0.2, 0.5, MB
    for _ in range(5):
        assert storage.read_bytes(f"{proxy.url}/a.bin") == data
        with storage.open_read(f"{proxy.url}/a.bin") as file:
            assert file.read() == data
    assert proxy.cuts and proxy.refusals
    proxy.busy_share = proxy.cut_share = 0.0
    with pytest.raises(MissingError, match="gone: cannot read it"):
        storage.read_bytes(f"{proxy.url}/gone")
    assert storage.find(f"{proxy.url}/gone") is None


def test_a_web_server_without_ranges_is_named_for_large_files(web: tuple[Path, FaultyProxy]) -> None:
    folder, proxy = web
    (folder / "a.bin").write_bytes(bytes(9 * MB))
    assert len(storage.read_bytes(f"{proxy.url}/a.bin")) == 9 * MB
    with pytest.raises(StorageError, match=r"a\.bin: its server sends only whole files"):
        storage.read_bytes(f"{proxy.url}/a.bin", 5, 10)
    with storage.open_read(f"{proxy.url}/a.bin") as file, pytest.raises(StorageError, match="sends only whole files"):
        file.read()


def test_a_corpus_behind_signed_urls_leaves_no_signature(
    web: tuple[Path, FaultyProxy], paragraphs: list[str], tmp_path: Path
) -> None:
    folder, proxy = web
    lines = [json.dumps({"text": text}) for text in paragraphs[:600]]
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf8")
    places = ("--out", tmp_path / "out", "--scratch", tmp_path / "scratch", "--workers", 1, "--tokenizer", "train:500")
    done = run_prep("build", "--corpus", f"{proxy.url}/a.jsonl?X-Amz-Signature=veryhidden&x=1", *places)
    assert done.returncode == 0 and "veryhidden" not in done.stdout + done.stderr, done.stderr
    written = [path for folder in ("out", "scratch") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert written and not [path for path in written if b"veryhidden" in path.read_bytes() or "veryhidden" in str(path)]
    missing = run_prep("build", "--corpus", f"{proxy.url}/b.jsonl?X-Amz-Signature=veryhidden", *places)
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1 and "veryhidden" not in missing.stderr


def test_a_scheme_whose_package_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock: the packages cannot be uninstalled for a test, so their import is refused, as where they are missing."""
    from fsspec.registry import _registry

    extras = set(importlib.metadata.metadata("bert-shards").get_all("Provides-Extra") or ())
    for scheme, package, extra in (
        ("s3", "s3fs", "s3"),
        ("gs", "gcsfs", "gcs"),
        ("az", "adlfs", "azure"),
        ("https", "fsspec.implementations.http", "http"),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(_registry, scheme, raising=False)
        with pytest.raises(StorageError, match=rf"^{scheme}://b/a: .* is missing; .*pip install '\.\[{extra}\]'$"):
            storage.find(f"{scheme}://b/a")
        assert extra in extras


def test_an_unknown_scheme_is_one_line() -> None:
    with pytest.raises(StorageError, match=r"^nope://b/a: nope:// is no known kind of storage; use .*$"):
        storage.find("nope://b/a")


def test_the_hub_out_of_reach_says_how_to_work_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    code = "from shards import storage; from shards.storage import faults; faults.FIRST_CONTACT_S = 0.3; storage.list_files('hf://datasets/some/texts')"
    environment = os.environ | {"HF_ENDPOINT": endpoint, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=HANG_S)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("shards.storage.faults.StorageError: hf://datasets/some/texts: cannot list it: ")
    assert last.endswith("`hf download --repo-type dataset NAME --local-dir DIR` and pass that folder")


def test_a_process_that_was_forked_reads_on(web: tuple[Path, FaultyProxy]) -> None:
    folder, proxy = web
    (folder / "a.bin").write_bytes(b"content")
    code = f"""
import os
from shards import storage
assert storage.read_bytes({proxy.url + "/a.bin"!r}) == b"content"
child = os.fork()
if not child:
    os._exit(0 if storage.read_bytes({proxy.url + "/a.bin"!r}) == b"content" else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=HANG_S).returncode == 0


def test_waits_grow_and_are_spread_by_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock: time itself, or the test would take the minutes that it is about."""
    waits: dict[str, list[float]] = {"s3://b/a": [], "s3://b/b": []}
    now = [0.0]

    def fail() -> None:
        raise ConnectionResetError("cut")

    monkeypatch.setattr(faults, "_answered", {"s3://b"})
    for url, slept in waits.items():
        now[0] = 1.0

        def sleep(seconds: float, slept: list[float] = slept) -> None:
            slept.append(seconds)
            now[0] += seconds

        monkeypatch.setattr(faults, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
        with pytest.raises(StorageError, match="ConnectionResetError: cut"):
            faults.retried(url, "read", fail)
        assert 90 < sum(slept) <= faults.DEADLINE_S and slept[0] <= 0.5 and slept[-1] >= 7.5
    assert waits["s3://b/a"] != waits["s3://b/b"]


def test_a_web_servers_folder_is_listed_with_sizes(web: tuple[Path, FaultyProxy]) -> None:
    folder, proxy = web
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text(name * 10)
    url = proxy.url
    assert [(info.url.rpartition("/")[2], info.bytes) for info in storage.list_files(f"{url}/")] == [
        ("a.txt", 50),
        ("b.txt", 50),
    ]
    assert [info.bytes for info in storage.glob(f"{url}/*.txt")] == [50, 50]


def test_urls_that_listing_would_break_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(StorageError, match="lose a part of the URL"):
        storage.list_files(f"zip://*.txt::{tmp_path}/a.zip")


def test_a_web_server_with_dates_alone_gives_versions(web: tuple[Path, FaultyProxy]) -> None:
    folder, proxy = web
    versions = []
    for number, seconds in enumerate((1_000_000_000, 1_100_000_000)):
        (folder / "a.txt").write_bytes(b"same size %d" % number)
        os.utime(folder / "a.txt", (seconds, seconds))
        info = storage.find(f"{proxy.url}/a.txt")
        assert info is not None
        versions.append(info.version)
    assert versions[0] != versions[1] and all(versions)


def test_files_of_the_hub_have_versions(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one")
    code = "from shards import storage; print([info.version for info in storage.list_files('hf://datasets/user/set')])"
    with serve(tmp_path, "user/set") as endpoint:
        environment = os.environ | {"HF_ENDPOINT": endpoint}
        found = []
        for text in (b"one", b"two"):  # of one size
            (tmp_path / "a.txt").write_bytes(text)
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            found.append(done.stdout)
    assert found[0] != found[1] and "''" not in found[0]


def test_files_of_a_web_server_are_read_as_they_were_listed(web: tuple[Path, FaultyProxy]) -> None:
    folder, proxy = web
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text(f"words of {name}\n")
    for urls in ([f"{proxy.url}/*.txt"], [f"{proxy.url}/a.txt", f"{proxy.url}/b.txt"]):
        files = list_inputs(Corpus(urls))
        assert all(file.version for file in files)
        read = [list(read_documents(Span(file), Rule("line", "text"))) for file in files]
        assert [texts_of(items) for items in read] == [["words of a.txt"], ["words of b.txt"]]
    os.utime(folder / "b.txt", (1_000_000_000, 1_000_000_000))
    with pytest.raises(UserError, match=r"/b\.txt: was changed after it was listed; run the same command again"):
        list(read_documents(Span(files[1]), Rule("line", "text")))

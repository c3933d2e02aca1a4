"""Fixtures that the tests share."""

import os
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from commands import ROOT, manifest_of, run_prep, run_prep_process
from corpora import speeches
from servers import moto_server

if TYPE_CHECKING:
    from prep.tokens.tokenizer import PreparedTokenizer

__all__ = ["ROOT", "manifest_of", "run_prep", "run_prep_process", "speeches"]

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: tests run beside each other, and sums depend on it


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
    from prep.tokens.vocabulary import VocabularyTask, train_vocabulary

    file = InputFile(corpus.name, str(corpus), corpus.stat().st_size, "", "text", "")
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    splitting = Splitting("language", "en")
    task = VocabularyTask((Span(file),), Rule("line", "text"), splitting, "WordPiece", 4000, False, False, "")
    made = train_vocabulary(task)
    path.write_text(made.json_text, encoding="utf8")
    return path


@pytest.fixture(scope="session")
def tokenizer(vocabulary: Path) -> "PreparedTokenizer":
    """The tokenizer of that vocabulary."""
    from prep.tokens.tokenizer_source import load_tokenizer

    return load_tokenizer(str(vocabulary), cased=False)


@pytest.fixture(scope="session")
def tokenizer_folders(tmp_path_factory: pytest.TempPathFactory, paragraphs: list[str]) -> dict[str, Path]:
    """A folder with a tokenizer of each kind."""
    from tokenizers_of_all_kinds import KINDS, OPENAI_CONFIG

    folders = {}
    for name, make in KINDS.items():
        folders[name] = tmp_path_factory.mktemp(name)
        make(paragraphs[:800]).save(str(folders[name] / "tokenizer.json"))
    (folders["openai"] / "tokenizer_config.json").write_text(OPENAI_CONFIG)
    return folders


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


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto_server(tmp_path_factory.mktemp("s3") / "log.txt") as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of that server, which has an empty `s3://bucket` and nothing else; processes that are started find it too."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import boto3
    import s3fs

    with urllib.request.urlopen(urllib.request.Request(f"{s3_server}/moto-api/reset", method="POST")):
        pass
    s3fs.S3FileSystem.clear_instance_cache()  # of this process; other tests have other servers and other keys
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    return client


@pytest.fixture(scope="session")
def random_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of random rows: 72 to train on in three shards, 11 held out."""
    from datasets_of_rows import write_data_set

    path = tmp_path_factory.mktemp("random_data")
    write_data_set(path)
    return path


@pytest.fixture(scope="session")
def trained(random_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one epoch on it, in one process. Tests copy it before they change it."""
    from launch import run, tiny

    out = tmp_path_factory.mktemp("trained") / "run"
    code, _, err = run(0, *tiny(random_data, out, epochs=1))
    assert code == 0, err
    return out

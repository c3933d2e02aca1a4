"""The containers that text comes in: the same documents from each, and what is said of broken ones."""

import json
from collections.abc import Iterator
from pathlib import Path

import containers
import numpy as np
import pytest
from commands import run_prep, run_prep_process
from containers import COMPRESS, CONTAINERS, read_file, texts_of
from hub_server import serve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from token_stores import stored_documents

from prep.corpus.documents import Document, Fault, Rule
from prep.plan import make_plan
from prep.settings import Settings
from prep.tokens.store import Documents, Places
from prep.tokens.task import TokenizeTask
from prep.tokens.tokenize import tokenize_unit
from prep.tokens.tokenizer_source import load_tokenizer

LINES = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=40).filter(
    lambda line: bool(line.strip()) and line.strip("\ufeff\x85") != ""
)
DOCUMENTS = st.lists(st.lists(LINES, min_size=1, max_size=4).map("\n".join), min_size=1, max_size=8, unique=True)
RULE = Rule("blank-line", "text")


def files(folder: Path, documents: list[str]) -> Iterator[Path]:
    """The documents in every container, compressed in every way."""
    for name, make in CONTAINERS.items():
        for ending, compress in COMPRESS.items():
            path = folder / f"{name}{ending}"
            path.write_bytes(compress(make(documents)))
            yield path
    path = folder / "a.parquet"
    path.write_bytes(containers.parquet(documents))
    yield path


@given(DOCUMENTS)
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_container_gives_the_same_documents(tmp_path: Path, documents: list[str]) -> None:
    for path in files(tmp_path, documents):
        found = read_file(path)
        assert [item.text for item in found if isinstance(item, Document)] == documents, path.name
        positions = [item.position for item in found]
        assert sorted(set(positions)) == positions


def token_store(path: Path, scratch: Path, tokenizer: str) -> Documents:
    """All documents of the token store of one input, known by their content, in order of their keys."""
    asked = Settings(corpus=(str(path),), out="/nowhere", scratch=str(scratch), document="blank-line")
    files = []
    for unit in make_plan(asked).units:
        task = TokenizeTask(
            unit=unit,
            key=f"{unit.number:032x}",
            rule=asked.rule,
            splitting=asked.splitting,
            on_error="stop",
            tokenizer_url=tokenizer,
            engine="reference",
            store=str(scratch),
            places=Places.make(0.0),
            weights=(),
            by_content=True,
        )
        record = tokenize_unit(task)
        files.append((task.key, record.index_bits, record.stored_bytes))
    return stored_documents(scratch, files)


def test_every_container_gives_the_same_token_store(tmp_path: Path, vocabulary: Path, paragraphs: list[str]) -> None:
    """Documents are known by their content here, as with --dedup exact, so that even their keys are equal."""
    (tmp_path / "corpus").mkdir()
    load_tokenizer(str(vocabulary), cased=False).save(str(tmp_path / "tokenizer"))
    expected = None
    for path in files(tmp_path / "corpus", paragraphs[:60]):
        found = token_store(path, tmp_path / f"scratch-{path.name}", str(tmp_path / "tokenizer"))
        expected = expected or found
        assert len(found.keys) == 60
        for name, values in vars(expected).items():
            assert np.array_equal(values, getattr(found, name)), f"{path.name}: {name}"


def test_html_pages_give_their_main_text_and_other_types_are_counted(tmp_path: Path) -> None:
    page = "<html><head><script>var x;</script></head><body><article><p>Caf\xe9 au lait.</p></article></body></html>"
    path = tmp_path / "a.warc.gz"
    records = [
        containers.response(page.encode("latin-1"), "text/html; charset=ISO-8859-1"),
        containers.response(b"\x89PNG\0", "image/png"),
        containers.response(b"gone", "text/plain", status="404 Not Found"),
        containers.response(b"plain text", "text/plain"),
    ]
    path.write_bytes(COMPRESS[".gz"](b"".join(records)))
    html, image, gone, plain = read_file(path)
    assert isinstance(html, Document) and "Caf\xe9 au lait." in html.text and "var x" not in html.text
    assert isinstance(image, Fault) and (image.reason, image.num_bytes) == ("not_wanted", 5)
    assert isinstance(gone, Fault) and gone.reason == "not_wanted"
    assert isinstance(plain, Document) and plain.text == "plain text"


DAMAGED = {
    "cut.wet": lambda: containers.wet(["one text", "another text"])[:-9],
    "header.warc": lambda: containers.warc(["one text", "another text"])[:-150],
    "cut.warc.gz": lambda: COMPRESS[".gz"](containers.wet(["one text"] * 50))[:-40],
    "not.warc": lambda: b"hello\nworld\n",
    "cut.tar": lambda: containers.tar_of_texts(["one text", "another text"])[:1300],
    "end.tar": lambda: containers.tar_of_texts(["one text"])[:1024],
    "cut.tar.xz": lambda: COMPRESS[".xz"](containers.tar_of_texts(["one text"] * 50))[:-40],
    "not.tar": lambda: b"hello\nworld\n" * 100,
    "cut.jsonl.bz2": lambda: COMPRESS[".bz2"](containers.jsonl([f"text {i}" * 99 for i in range(999)]))[:-40],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_gives_what_stands_before_and_one_fault(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(DAMAGED[name]())
    *before, last = read_file(tmp_path / name)
    assert isinstance(last, Fault) and last.reason == "damaged", last
    assert all(isinstance(item, Document) for item in before)
    nothing_before = ("not.", "bz2", "xz")  # the latter two hand on whole blocks only
    assert before or any(mark in name for mark in nothing_before)


def test_members_that_are_not_text_are_faults(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    members = {"one.txt": b"text", "two.jpg": b"\xff\xd8\xff\0", "three.md": b"more text", ".hidden.txt": b"no"}
    path.write_bytes(containers.tar(members | {"four.json": b'{"title": "x"}', "five.dat": b"a\0b"}))
    found = read_file(path)
    assert [item.text for item in found if isinstance(item, Document)] == ["text", "more text"]
    assert [item.reason for item in found if isinstance(item, Fault)] == ["not_text", "not_wanted", "no_text_field", "not_text"]


PLACES = ("--out", "out", "--scratch", "scratch", "--workers", 1)


def test_broken_containers_stop_or_are_counted(tmp_path: Path, vocabulary: Path) -> None:
    texts = [f"Document {i} is here. It has a second sentence, number {i * 7}." for i in range(40)]
    members = {f"{number}.txt": text.encode() for number, text in enumerate(texts)}
    (tmp_path / "a.tar").write_bytes(containers.tar(members | {"x.jpg": b"\xff\xd8\xff\0"}))
    (tmp_path / "b.wet").write_bytes(containers.wet([text.replace("Doc", "Dok") for text in texts])[:-20])
    command = ("build", "--corpus", "a.tar", "b.wet", "--tokenizer", vocabulary, *PLACES)
    stopped = run_prep("build", "--corpus", "a.tar", "--tokenizer", vocabulary, *PLACES, cwd=tmp_path)
    assert stopped.returncode == 2 and "Traceback" not in stopped.stderr
    assert "a.tar: at byte" in stopped.stderr and "not text: member x.jpg" in stopped.stderr
    skipped = run_prep(*command, "--on-error", "skip", cwd=tmp_path)
    assert skipped.returncode == 0, skipped.stderr
    ledger = json.loads((tmp_path / "out" / "manifest.json").read_text())["ledger"]
    assert ledger["documents"]["dropped"] == {"damaged": 1, "not_text": 1} and ledger["documents"]["used"] == 79


@pytest.fixture
def hub_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "hub"
    (folder / "data").mkdir(parents=True)
    texts = [f"Document {i} is here. It has a second sentence, number {i * 7}." for i in range(80)]
    (folder / "data" / "train-00000.parquet").write_bytes(containers.parquet(texts[:40]))
    (folder / "data" / "more.jsonl.gz").write_bytes(COMPRESS[".gz"](containers.jsonl(texts[40:])))
    for name in ("README.md", "dataset_infos.json", "loader.py"):
        (folder / name).write_text("no data")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return folder


def test_a_data_set_of_the_hub_is_read_as_if_it_were_on_the_disk(
    hub_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = ("--scratch", tmp_path / "scratch", "--tokenizer", "train:200", "--workers", 1)
    local = run_prep("build", "--corpus", hub_set / "data", "--out", tmp_path / "local", *places)
    assert local.returncode == 0, local.stderr
    with serve(hub_set, "user/set") as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        remote = run_prep_process("build", "--corpus", "hf://datasets/user/set/data", "--out", tmp_path / "remote", *places)
    assert remote.returncode == 0, remote.stderr
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("local", "remote")]
    assert manifests[0]["data_fingerprint"] == manifests[1]["data_fingerprint"]


def test_wikiextractors_own_markup_is_named(tmp_path: Path) -> None:
    (tmp_path / "AA").mkdir()
    (tmp_path / "AA" / "wiki_00").write_text('<doc id="1" url="u" title="t">\nText.\n</doc>\n')
    done = run_prep("plan", "--corpus", tmp_path / "AA", "--out", tmp_path / "out")
    assert done.returncode == 2 and "wiki_00: is in wikiextractor's own markup" in done.stderr and "--json" in done.stderr


def test_what_stands_behind_a_damaged_header_or_an_end_is_not_lost_in_silence(tmp_path: Path) -> None:
    whole = containers.tar_of_texts([f"text {i}" for i in range(40)])
    flipped = bytearray(whole)
    flipped[12 * 1024 + 3] ^= 1
    for content, before in ((bytes(flipped), 12), (whole + whole, 40)):
        (tmp_path / "a.tar").write_bytes(content)
        *documents, last = read_file(tmp_path / "a.tar")
        assert len(documents) == before and isinstance(last, Fault) and last.reason == "damaged"


def test_names_that_are_equal_up_to_a_dot_cost_no_text(tmp_path: Path) -> None:
    members = {f"page.{number}.txt": f"text {number}".encode() for number in range(30)} | {"page.meta.json": b'{"text": "no"}'}
    (tmp_path / "a.tar").write_bytes(containers.tar(members))
    assert texts_of(read_file(tmp_path / "a.tar")) == [f"text {i}" for i in range(30)]


def chunked(body: bytes) -> bytes:
    parts = [body[i : i + 7] for i in range(0, len(body), 7)]
    return b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts) + b"0\r\n\r\n"


def test_bodies_are_decoded_as_they_came_over_the_wire(tmp_path: Path) -> None:
    text = "Caf\xe9 au lait, and a longer text behind it.".encode("latin-1")
    kind = "text/plain; charset=ISO-8859-1; boundary=x"
    packed = COMPRESS[".gz"](text)
    records = [
        containers.response(text, kind),
        containers.response(text, kind.replace("ISO-8859-1", "utf8mb4")),
        containers.response(chunked(text), f"{kind}\r\nTransfer-Encoding: chunked"),
        containers.response(packed, f"{kind}\r\nContent-Encoding: gzip"),
        containers.response(chunked(packed), f"{kind}\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked"),
        containers.response(text, f"{kind}\r\nContent-Encoding: gzip"),
        containers.response(packed[:-12], f"{kind}\r\nContent-Encoding: br"),
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    found = read_file(tmp_path / "a.warc")
    expected = [text.decode("latin-1"), text.decode("latin-1"), *[text.decode("latin-1")] * 4, "broken_http"]
    assert [item.text if isinstance(item, Document) else item.reason for item in found] == expected


def test_a_parquet_file_that_is_named_like_wikiextractors_is_parquet(tmp_path: Path) -> None:
    (tmp_path / "wiki_1.parquet").write_bytes(containers.parquet(["one", "two"]))
    assert [item.text for item in read_file(tmp_path / "wiki_1.parquet") if isinstance(item, Document)] == ["one", "two"]

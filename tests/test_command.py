"""Bad input, damage and interruption, as a person at the command line meets them."""

import gzip
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import HANG_S, ROOT, manifest_of, run_prep, run_prep_process
from conftest import BuildRunner
from fsspec.registry import _registry as loaded_filesystems

from shards.storage import disk


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("tokenize ", "pair ", "vocabulary:"))]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


@pytest.fixture
def places(tmp_path: Path) -> list[object]:
    return ["--out", tmp_path / "out", "--scratch", tmp_path / "scratch", "--workers", 1]


def lines_file(path: Path, count: int = 40) -> Path:
    path.write_text("\n".join(f"Document {i} is here. It has a second sentence, number {i * 7}." for i in range(count)))
    return path


def no_such_path(folder: Path) -> tuple[Path, str]:
    return folder / "nowhere.txt", "nowhere.txt: no such file"


def no_match(folder: Path) -> tuple[Path, str]:
    return folder / "*.txt", "no file matches"


def empty_folder(folder: Path) -> tuple[Path, str]:
    (folder / "empty").mkdir()
    return folder / "empty", "a folder without files"


def empty_file(folder: Path) -> tuple[Path, str]:
    (folder / "empty.txt").touch()
    return folder / "empty.txt", "all empty"


def blank_file(folder: Path) -> tuple[Path, str]:
    (folder / "blank.txt").write_text("\n \n\n")
    return folder / "blank.txt", "no text to train a vocabulary on"


def one_document(folder: Path) -> tuple[Path, str]:
    return lines_file(folder / "one.txt", 1), "1 documents, 1 of them different: too few"


def unknown_kind(folder: Path) -> tuple[Path, str]:
    (folder / "book.pdf").write_bytes(b"%PDF")
    return folder / "book.pdf", "book.pdf: .pdf is no format that can be read"


def no_field_jsonl(folder: Path) -> tuple[Path, str]:
    (folder / "a.jsonl").write_text('{"id": 1, "body": "x"}\n')
    return folder / "a.jsonl", "a.jsonl: at byte 0: no text in the field 'text'; there are: id, body; choose with --text-field"


def no_field_parquet(folder: Path) -> tuple[Path, str]:
    pq.write_table(pa.table({"id": [1], "body": ["x"]}), folder / "a.parquet")
    return folder / "a.parquet", "has no column 'text'; there are: id (int64), body (string); choose with --text-field"


def numbers_for_text(folder: Path) -> tuple[Path, str]:
    pq.write_table(pa.table({"text": [1]}), folder / "a.parquet")
    return folder / "a.parquet", "the column 'text' is int64, not text"


def unknown_scheme(folder: Path) -> tuple[str, str]:
    return "nosuch://bucket/a.txt", "nosuch:// is no known kind of storage"


def missing_extra(folder: Path) -> tuple[str, str]:
    return "gs://bucket/a.txt", "the package for gs:// is missing; install the extra: pip install '.[gcs]'"


CORPORA: list[Callable[[Path], tuple[object, str]]] = [
    no_such_path,
    no_match,
    empty_folder,
    empty_file,
    blank_file,
    one_document,
    unknown_kind,
    no_field_jsonl,
    no_field_parquet,
    numbers_for_text,
    unknown_scheme,
    missing_extra,
]


@pytest.mark.parametrize("make", CORPORA, ids=lambda make: make.__name__)
def test_a_bad_corpus_is_one_line(
    make: Callable[[Path], tuple[object, str]], places: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as if it were not installed
    monkeypatch.delitem(loaded_filesystems, "gs", raising=False)
    corpus, message = make(tmp_path)
    assert message in refused(run_prep("build", "--corpus", corpus, *places))
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-seq-len", "3"], "--max-seq-len is 3, must be from 8"),
        (["--max-seq-len", "many"], "argument --max-seq-len: invalid int value: 'many'"),
        (["--mask-prob", "2"], "--mask-prob is 2.0"),
        (["--format", "csv"], "argument --format: invalid choice: 'csv'"),
        (["--no-such-flag"], "unrecognized arguments: --no-such-flag"),
        (["--shard-bytes", "huge"], "'huge' is not a size"),
        (["--tokenizer", "nowhere/tokenizer.json"], "nowhere/tokenizer.json: no such file or folder"),
        (["--tokenizer", "train:x"], "must be train:N"),
        (["--config", "nowhere.toml"], "nowhere.toml: cannot read it: No such file"),
    ],
    ids=lambda value: "".join(value[:2]) if isinstance(value, list) else "",
)
def test_bad_settings_are_one_line(arguments: Sequence[str], message: str, places: list[object], tmp_path: Path) -> None:
    corpus = lines_file(tmp_path / "a.txt")
    assert message in refused(run_prep("build", "--corpus", corpus, *places, *arguments))
    assert not (tmp_path / "out").exists()


def test_the_hub_out_of_reach_is_one_line(places: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    corpus = lines_file(tmp_path / "a.txt")
    line = refused(run_prep_process("build", "--corpus", corpus, *places, "--tokenizer", "some-one/some-model"))
    assert "some-one/some-model: cannot be fetched from the hub" in line and "vocab.txt" in line


def test_a_name_on_the_hub_is_loaded_from_its_cache(
    build: BuildRunner, vocabulary: Path, places: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub itself cannot be reached from everywhere; what was fetched from it once can."""
    cache = tmp_path / "hf" / "hub" / "models--some-one--some-model"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("a" * 40)
    (cache / "snapshots" / ("a" * 40)).mkdir(parents=True)
    shutil.copyfile(vocabulary, cache / "snapshots" / ("a" * 40) / "tokenizer.json")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    corpus = lines_file(tmp_path / "a.txt")
    done = run_prep_process("build", "--corpus", corpus, *places, "--tokenizer", "some-one/some-model")
    assert done.returncode == 0, done.stderr
    assert manifest_of(tmp_path / "out") == manifest_of(build(corpus, name="path"))


def test_a_folder_of_other_things_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "diary.txt").write_text("dear")
    arguments = ("--corpus", lines_file(tmp_path / "a.txt"), "--out", tmp_path / "home", "--scratch", tmp_path / "s")
    assert "holds" in refused(run_prep("build", *arguments)) and (tmp_path / "home" / "diary.txt").exists()


def test_a_build_removes_nothing_that_is_not_its_own(tmp_path: Path, vocabulary: Path) -> None:
    corpus = lines_file(tmp_path / "a.txt")
    for name in ("_build/html/index.html", "train/mine.txt", "train/sub/000000-0000.parquet"):
        out = tmp_path / "_build" / name.replace("/", "-")
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("precious")
        arguments = ("--corpus", corpus, "--out", out, "--scratch", tmp_path / "s", "--tokenizer", vocabulary)
        assert f"holds {out / name}" in refused(run_prep("build", *arguments))
        assert (out / name).read_text() == "precious"


def test_a_kill_before_the_first_file_is_published_leaves_the_folder_usable(build: BuildRunner, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f".build.json.tmp-{disk._boot()}-0").touch()
    out = build(lines_file(tmp_path / "a.txt"))
    assert not list(out.glob(".*"))


def test_out_and_scratch_inside_the_corpus_are_no_part_of_it(vocabulary: Path, tmp_path: Path) -> None:
    lines_file(tmp_path / "a.txt")
    arguments = ("--corpus", tmp_path, "--out", tmp_path / "o", "--scratch", tmp_path / "s", "--tokenizer", vocabulary)
    assert run_prep("build", *arguments).returncode == 0
    again = run_prep("build", *arguments)
    assert again.returncode == 0 and "is finished" in again.stderr
    assert manifest_of(tmp_path / "o")["inputs"]["files"] == 1


def test_a_closed_pipe_does_not_end_a_build(corpus: Path, vocabulary: Path, places: list[object], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "prep", "build", "--corpus", corpus, *places, "--tokenizer", vocabulary]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    assert running.stderr is not None
    running.stderr.close()
    assert running.wait(timeout=HANG_S) == 0
    assert (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "record", "tokenizer"])
def test_a_damaged_scratch_is_mended_or_named(damage: str, corpus: Path, build: BuildRunner, tmp_path: Path) -> None:
    arguments = ("--tokenizer", "train:600")
    expected = manifest_of(build(corpus, *arguments))
    tokens = next(iter((tmp_path / "scratch").glob("tokens-*/*.tokens")))
    record = tokens.with_suffix(".json")
    tokenizer = next(iter((tmp_path / "scratch").glob("vocabulary-*/tokenizer.json")))
    victim = {"record": record, "tokenizer": tokenizer}.get(damage, tokens)
    content = bytearray(victim.read_bytes())
    content[-200] ^= 4
    victim.write_bytes(content if damage == "flip" else content[:100])
    if damage == "delete":
        victim.unlink()
    if damage in ("flip", "tokenizer"):
        places = ("--corpus", corpus, "--out", tmp_path / "again", "--scratch", tmp_path / "scratch")
        line = refused(run_prep("build", *places, *arguments))
        assert str(victim) in line and ("prep clean" in line or "remove it" in line)
    else:
        assert manifest_of(build(corpus, *arguments, name="again")) == expected


def test_a_text_of_the_same_size_and_time_is_not_taken_for_another(build: BuildRunner, tmp_path: Path) -> None:
    prints = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        path = lines_file(tmp_path / name / "a.txt")
        path.write_text(path.read_text().replace("second", "sekond" if name == "two" else "second"))
        os.utime(path, (1, 1))
        prints.append(manifest_of(build(path, name=f"out-{name}"))["data_fingerprint"])
    assert prints[0] != prints[1]


def test_pipes_are_passed_over_and_dead_links_named(vocabulary: Path, places: list[object], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    lines_file(folder / "a.txt")
    os.mkfifo(folder / "pipe")
    assert run_prep("plan", "--corpus", folder, *places).stdout.startswith("inputs:      1 files")
    (folder / "link.txt").symlink_to("nowhere")
    assert "folder/link.txt: cannot list it: it is a link to nothing; check the path" in refused(
        run_prep("plan", "--corpus", folder, *places)
    )


def broken_corpora(folder: Path) -> dict[str, tuple[Path, str, list[str]]]:
    """Name -> (file, reason, what the message must say)."""
    good = [f"Document {i} is here. It has a second sentence, number {i * 7}." for i in range(40)]
    truncated = folder / "cut.txt.gz"
    truncated.write_bytes(gzip.compress("\n".join(good * 50).encode())[:-12])
    broken = folder / "broken.jsonl"
    records = [json.dumps({"text": text}) for text in good]
    broken.write_text("\n".join([*records[:20], '{"text": "cut', *records[20:]]))
    latin = folder / "latin.txt"
    latin.write_bytes("\n".join([*good[:20], "caf\xe9", *good[20:]]).encode("latin-1"))
    page = folder / "page.parquet"
    pq.write_table(pa.table({"text": good}), page, row_group_size=20, write_page_checksum=True, use_dictionary=False)
    content = bytearray(page.read_bytes())
    column = pq.read_metadata(page).row_group(1).column(0)
    content[column.data_page_offset + column.total_compressed_size * 3 // 4] ^= 0xFF
    page.write_bytes(content)
    empty = folder / "empty.jsonl"
    empty.write_text("\n".join([*records[:20], '{"text": " \\n "}', *records[20:]]))
    offset = sum(len(record) + 1 for record in records[:20])
    return {
        "truncated gz": (truncated, "damaged", ["cut.txt.gz: at byte", "ended before the end-of-stream marker"]),
        "broken line": (broken, "broken_json", [f"broken.jsonl: at byte {offset}: broken json"]),
        "invalid utf-8": (latin, "invalid_utf8", ["latin.txt: at byte", "byte 0xe9"]),
        "corrupt page": (page, "damaged", ["page.parquet: at row 20: damaged"]),
        "no sentence": (empty, "no_sentence", [f"empty.jsonl: at byte {offset}: empty, without a sentence"]),
    }


@pytest.mark.parametrize("name", ["truncated gz", "broken line", "invalid utf-8", "corrupt page", "no sentence"])
def test_broken_documents_stop_or_are_counted(
    name: str, places: list[object], tmp_path: Path, vocabulary: Path, build: BuildRunner
) -> None:
    corpus, reason, messages = broken_corpora(tmp_path)[name]
    line = refused(run_prep("build", "--corpus", corpus, *places, "--tokenizer", vocabulary))
    assert all(message in line for message in [*messages, "--on-error skip"])
    assert not (tmp_path / "out" / "manifest.json").exists()
    ledger = manifest_of(build(corpus, "--on-error", "skip", name="skipping"))["ledger"]
    assert ledger["documents"]["dropped"] == {reason: 1}
    assert [(fault["file"], fault["reason"]) for fault in ledger["faults"]] == [(corpus.name, reason)]
    for unit in ("documents", "bytes"):
        assert ledger[unit]["in"] == ledger[unit]["used"] + sum(ledger[unit]["dropped"].values())
    assert run_prep("verify", tmp_path / "skipping").returncode == 0


@pytest.mark.parametrize("remedy", ["mend", "skip"])
def test_a_build_that_stopped_at_a_broken_document_goes_on(
    remedy: str, places: list[object], vocabulary: Path, tmp_path: Path
) -> None:
    corpus, _, _ = broken_corpora(tmp_path)["broken line"]
    arguments = ("build", "--corpus", corpus, *places, "--tokenizer", vocabulary)
    refused(run_prep(*arguments))
    if remedy == "mend":
        corpus.write_text(corpus.read_text().replace('{"text": "cut', '{"text": "Mended. Again."}'))
    done = run_prep(*arguments, *(("--on-error", "skip") if remedy == "skip" else ()))
    assert done.returncode == 0, done.stderr
    ledger = manifest_of(tmp_path / "out")["ledger"]
    assert ledger["documents"]["used"] == 40 + (remedy == "mend")
    if remedy == "skip":  # what was tokenized with errors left out is not taken for whole by a build that stops at them
        elsewhere = ["--out", tmp_path / "other", *places[2:]]
        assert "broken json" in refused(run_prep("build", "--corpus", corpus, *elsewhere, "--tokenizer", vocabulary))


def test_a_broken_document_is_named_before_a_vocabulary_is_made_without_it(places: list[object], tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("caf\xe9 au lait\n".encode("latin-1") * 50)
    line = refused(run_prep("build", "--corpus", tmp_path / "latin.txt", *places))
    assert "latin.txt: at byte 0: invalid utf8" in line


def test_odd_documents_are_text_like_any_other(build: BuildRunner, tmp_path: Path) -> None:
    odd = ["It says [MASK] here. And [SEP][CLS] there.", "\x1b[31mred\x1b[0m alert. \x07Bell.", "x" * 1_000_000]
    odd += ["\u202eright to left. \ufeffmark.", "<script>alert(1)</script>. <b>bold</b>."]
    good = [f"Document {i} is here. It has a second sentence, number {i * 7}." for i in range(40)]
    records = [json.dumps({"text": text}) for text in odd + good]
    (tmp_path / "odd.jsonl").write_text("\n".join(records))
    out = build(tmp_path / "odd.jsonl")
    assert manifest_of(out)["ledger"]["documents"]["used"] == 45
    assert run_prep("verify", out).returncode == 0
    shown = run_prep("show", out, "-n", 100)
    assert shown.returncode == 0 and "\x1b" not in shown.stdout and "\x07" not in shown.stdout


def test_a_full_disk_is_one_line_and_resumable(corpus: Path, vocabulary: Path, places: list[object], tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the system refuses the write in the same way."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command = [sys.executable, "-m", "prep", "build", "--corpus", corpus, *places, "--tokenizer", vocabulary]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    full = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, preexec_fn=limit, cwd=ROOT, check=False
    )
    assert "cannot write it: File too large" in refused(full)
    assert not list(tmp_path.rglob("*.tmp-*"))
    assert run_prep(*command[3:]).returncode == 0
    assert run_prep("verify", tmp_path / "out").returncode == 0


def start(corpus: Path, out: Path, *arguments: object) -> subprocess.Popen[bytes]:
    out.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "prep", "build", "--corpus", corpus, "--out", out, "--scratch", out.parent / "scratch"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open(out.parent / "errors.txt", "w") as errors:
        return subprocess.Popen([*map(str, [*command, *arguments])], cwd=ROOT, env=environment, stderr=errors)


def gone(processes: Sequence[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=HANG_S)
    return not alive


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_an_interrupted_build_ends_at_once_and_can_go_on(number: int, corpus: Path, vocabulary: Path, tmp_path: Path) -> None:
    running = start(corpus, tmp_path / "out", "--tokenizer", vocabulary, "--workers", 2, "--tokenizer-engine", "reference")
    children = wait_for_workers(running)
    time.sleep(0.7)
    running.send_signal(number)
    running.wait(timeout=HANG_S)
    errors = (tmp_path / "errors.txt").read_text()
    assert running.returncode == 130 and "run the same command again" in errors and "Traceback" not in errors
    assert gone(children)
    again = start(corpus, tmp_path / "out", "--tokenizer", vocabulary)
    assert again.wait(timeout=HANG_S) == 0


@pytest.mark.parametrize("after_s", [0.05, 0.5])
def test_sigterm_ends_a_build_that_is_starting(after_s: float, corpus: Path, vocabulary: Path, tmp_path: Path) -> None:
    running = start(corpus, tmp_path / "out", "--tokenizer", vocabulary, "--workers", 2)
    time.sleep(after_s)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=HANG_S) in (-signal.SIGTERM, 130)
    assert "Traceback" not in (tmp_path / "errors.txt").read_text() and not (tmp_path / "out" / "manifest.json").exists()


def wait_for_workers(running: subprocess.Popen[Any]) -> list[psutil.Process]:
    """All processes of the build, as soon as there is a worker: the child of a child, which loads what workers need."""
    process = psutil.Process(running.pid)
    deadline = time.monotonic() + HANG_S
    while time.monotonic() < deadline and running.poll() is None:
        children = process.children(recursive=True)
        if len(children) > len(process.children()):
            return children
        time.sleep(0.02)
    raise AssertionError("no worker came up")


@pytest.mark.parametrize(
    ("num_kills", "exchange"),
    [(2, "two-level"), *(pytest.param(20, exchange, marks=pytest.mark.long) for exchange in ("one-level", "two-level"))],
)
def test_kills_at_random_moments_change_nothing(
    num_kills: int, exchange: str, corpus: Path, vocabulary: Path, tmp_path: Path
) -> None:
    """SIGKILL of a worker (odd rounds) or of the parent (even ones), then the same command again, until it is done."""
    import random

    rng = random.Random(0)
    arguments = ("--tokenizer", vocabulary, "--workers", 2, "--tokenizer-engine", "reference", "--shard-bytes", "100KB")
    expected = start(corpus, tmp_path / "a" / "out", *arguments)
    started = time.monotonic()
    assert expected.wait(timeout=HANG_S) == 0
    whole_s = time.monotonic() - started
    kills = rounds = 0
    while kills < num_kills:
        rounds += 1
        folder = tmp_path / f"round{rounds}"
        while not (folder / "out" / "manifest.json").exists():
            running = start(corpus, folder / "out", *arguments, "--exchange", exchange)
            time.sleep(rng.uniform(0.2, whole_s))
            alive = running.poll() is None
            children = psutil.Process(running.pid).children(recursive=True) if alive else []
            if alive and kills < num_kills:
                os.kill(rng.choice(children).pid if children and kills % 2 else running.pid, signal.SIGKILL)
                kills += 1
            code = running.wait(timeout=HANG_S)
            assert code in (0, -signal.SIGKILL), (folder / "errors.txt").read_text()
            assert gone(children)
        assert manifest_of(folder / "out") == manifest_of(tmp_path / "a" / "out")


def test_plan_says_much_and_does_nothing(corpus: Path, places: list[object], tmp_path: Path) -> None:
    done = run_prep("plan", "--corpus", corpus, *places)
    assert done.returncode == 0 and not (tmp_path / "out").exists() and not (tmp_path / "scratch").exists()
    for word in ("inputs:", corpus.name, "work units:", "partitions:", "output:", "scratch:", "vocabulary, tokenize, pair"):
        assert word in done.stdout


def test_show_marks_masks_segments_and_labels(corpus: Path, build: BuildRunner) -> None:
    done = run_prep("show", build(corpus), "-n", 30)
    assert done.returncode == 0 and "\x1b" not in done.stdout
    for mark in ("  A  [CLS] ", "  B ", "[SEP]", "[MASK→", "B is next", "B is not next"):
        assert mark in done.stdout


@pytest.mark.parametrize("command", ["verify", "show"])
def test_what_is_no_data_set_is_one_line(command: str, tmp_path: Path) -> None:
    assert "not a finished data set" in refused(run_prep(command, tmp_path))
    (tmp_path / "manifest.json").write_text("{")
    done = run_prep(command, tmp_path)
    assert "not a manifest" in (done.stdout if command == "verify" else refused(done))
    assert done.returncode == (1 if command == "verify" else 2)

import gzip
import json
import sys
from collections.abc import Callable, Sequence
from io import BufferedReader, BytesIO
from pathlib import Path
from unittest.mock import patch

import containers
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from containers import texts_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prep.corpus import documents, text
from prep.corpus.documents import Document, Fault, InputFile, Rule, Span
from prep.corpus.files import Corpus, list_inputs
from prep.corpus.read import read_documents, read_texts
from shards.errors import UserError
from shards.storage import StorageError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXTS = ["Alpha beta.", "Gamma. Delta!", "Ünïcode — 中文。", "x" * 3000, "last one"]
QUICK = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def input_file(path: Path, kind: str = "text", compression: str = "") -> InputFile:
    return InputFile(path.name, str(path), path.stat().st_size, "", kind, compression)


def read(file: InputFile, document: str = "line", edges: Sequence[int] = ()) -> list[Document | Fault]:
    """The documents of a file that is cut at the edges."""
    starts = [0, *edges]
    stops = [*edges, None]
    spans = [Span(file, start, stop) for start, stop in zip(starts, stops, strict=True)]
    return [item for span in spans for item in read_documents(span, Rule(document, "text"))]


LINES = st.lists(st.sampled_from(["a b", "", "  ", "zwölf", "\t", "c.", "\r", "dd dd", "\x0c"]), max_size=30)


@given(lines=LINES, ending=st.sampled_from(["\n", "\r\n"]), last=st.booleans(), data=st.data())
@pytest.mark.parametrize("document", ["line", "blank-line"])
@QUICK
def test_a_text_cut_anywhere_gives_the_same_documents(
    document: str, lines: list[str], ending: str, last: bool, data: st.DataObject, tmp_path: Path
) -> None:
    content = (ending.join(lines) + (ending if last else "")).encode()
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    edges = sorted(data.draw(st.lists(st.integers(1, max(1, len(content))), max_size=6)))
    whole = read(input_file(path), document)
    assert read(input_file(path), document, edges) == whole
    assert all(content[item.position :].startswith(item.text.encode()) for item in whole if isinstance(item, Document))
    if document == "line":
        assert texts_of(whole) == [line.rstrip("\r") for line in content.decode().split("\n") if line.strip()]


@given(data=st.data())
@QUICK
def test_json_lines_cut_anywhere_give_the_same_documents(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    content = "".join(json.dumps({"id": i, "text": text}, ensure_ascii=i % 2 == 0) + "\n" for i, text in enumerate(TEXTS))
    path.write_text(content, encoding="utf8")
    size = path.stat().st_size
    edges = sorted(data.draw(st.lists(st.integers(1, size), max_size=6)))
    assert texts_of(read(input_file(path, "jsonl"), edges=edges)) == TEXTS
    assert read(input_file(path, "jsonl"), edges=edges) == read(input_file(path, "jsonl"))


@given(data=st.data())
@QUICK
def test_parquet_cut_at_any_row_group_gives_the_same_documents(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": TEXTS * 4}), path, row_group_size=3)
    edges = sorted(data.draw(st.lists(st.integers(1, 6), max_size=4)))
    found = read(input_file(path, "parquet"), edges=edges)
    assert texts_of(found) == TEXTS * 4
    assert [item.position for item in found] == list(range(20))


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int32(), pa.string())]
)
def test_parquet_text_of_any_type(kind: pa.DataType, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    values = [text.encode() for text in TEXTS] if kind == pa.binary() else TEXTS
    pq.write_table(pa.table({"text": pa.array(values, kind)}), path)
    assert texts_of(read(input_file(path, "parquet"))) == TEXTS


def test_a_file_as_one_document_keeps_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(b"\xef\xbb\xbfOne.\n\nTwo.\n")
    assert read(input_file(path), "file") == [Document(0, "One.\n\nTwo.\n", 14)]


@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_streams_of_several_members_are_read_to_the_end(compression: str, tmp_path: Path) -> None:
    path = tmp_path / f"text.txt.{compression}"
    compress = gzip.compress if compression == "gz" else zstd.compress
    path.write_bytes(b"".join(compress(f"{text}\n".encode()) for text in TEXTS))
    assert texts_of(read(input_file(path, compression=compression))) == TEXTS


@pytest.mark.parametrize("compression", ["gz", "zst"])
@pytest.mark.parametrize("cut", [-1, -10, 40])
def test_a_truncated_stream_gives_what_is_before_and_a_fault(compression: str, cut: int, tmp_path: Path) -> None:
    path = tmp_path / f"text.txt.{compression}"
    lines = [f"line number {i} with some words" for i in range(2000)]
    compress = gzip.compress if compression == "gz" else zstd.compress
    path.write_bytes(compress("\n".join(lines).encode())[:cut])
    *before, last = read(input_file(path, compression=compression))
    assert texts_of(before) == lines[: len(before)]
    if cut == -1 and compression == "gz":
        assert len(before) >= len(lines) - 1, "what is before the damage was lost"
    assert isinstance(last, Fault) and last.reason == "damaged" and "ended before" in last.detail
    assert last.position <= sum(len(line) + 1 for line in lines[: len(before)])


def test_each_broken_document_is_a_fault_at_its_place(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    records = [b'{"text": "fine"}', b'{"text": ', b"[1]", b'{"body": "x", "id": 3}', b'{"text": null}', b'{"text": "\xff"}']
    records += [b'{"text": "\\ud800"}', b"[" * 100_000, b'{"text": "good"}']
    path.write_bytes(b"\n".join(records) + b"\n")
    found = read(input_file(path, "jsonl"))
    reasons = [item.reason if isinstance(item, Fault) else item.text for item in found]
    no_field, bad_text = ["no_text_field"] * 2, ["invalid_utf8"] * 2
    assert reasons == ["fine", "broken_json", "broken_json", *no_field, *bad_text, "broken_json", "good"]
    assert [item.position for item in found] == [sum(len(r) + 1 for r in records[:i]) for i in range(len(records))]
    assert isinstance(found[3], Fault) and "there are: body, id" in found[3].detail


def test_invalid_utf8_in_plain_text_names_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"good\nbad \xe9 line\nmore\n")
    first, fault, last = read(input_file(path))
    assert texts_of([first, last]) == ["good", "more"]
    assert fault == Fault(5, "invalid_utf8", 10, "byte 0xe9 at 9")


@pytest.mark.parametrize("document", ["line", "blank-line", "file"])
def test_documents_over_the_limit_are_counted_not_kept(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 100)
    path = tmp_path / "text.txt"
    long = b"word " * 50
    path.write_bytes(long if document == "file" else b"short\n\n" + long + b"\n\n" + b"y" * 100 + b"\n\nend\n")
    found = read(input_file(path), document)
    faults = [item for item in found if isinstance(item, Fault)]
    assert [fault.reason for fault in faults] == ["too_long"] and faults[0].num_bytes >= 250
    assert texts_of(found) == ([] if document == "file" else ["short", "y" * 100, "end"])


def test_a_damaged_parquet_page_costs_its_row_group_only(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    values = [f"row {i} of the table, with text" for i in range(300)]
    pq.write_table(pa.table({"text": values}), path, row_group_size=100, write_page_checksum=True, use_dictionary=False)
    place = pq.read_metadata(path).row_group(1).column(0).data_page_offset + 60
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)
    found = read(input_file(path, "parquet"))
    assert texts_of(found) == values[:100] + values[200:]
    assert [(item.position, item.reason) for item in found if isinstance(item, Fault)] == [(100, "damaged")]


def test_what_is_no_parquet_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 not really")
    (fault,) = read(input_file(path, "parquet"))
    assert isinstance(fault, Fault) and fault.reason == "damaged"


def test_a_file_that_went_away_is_no_fault_of_the_content(tmp_path: Path) -> None:
    for kind in ("text", "parquet"):
        file = InputFile("gone", str(tmp_path / "gone"), 1, "", kind, "")
        with pytest.raises(StorageError, match="gone: cannot read it: No such file"):
            read(file)


@pytest.mark.parametrize("change", ["cut", "grown", "rewritten", "removed"])
def test_a_file_that_is_changed_while_it_is_read_stops_by_name(change: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("words of a line\n" * 200_000)
    (file,) = list_inputs(Corpus([str(path)]))
    items = read_documents(Span(file), Rule("line", "text"))
    next(items)
    if change == "cut":
        with path.open("r+b") as opened:
            opened.truncate(1_600_000)
    elif change == "grown":
        with path.open("ab") as opened:
            opened.write(b"more\n")
    elif change == "rewritten":
        path.write_text("other of a line\n" * 200_000)
    else:
        path.unlink()
    with pytest.raises(UserError, match=r"a\.txt: was (changed after it was listed|removed while it was read)"):
        list(items)


@pytest.mark.parametrize(("name", "pack"), [("a.jsonl.gz", gzip.compress), ("a.parquet", None), ("a.tar", None)])
def test_a_cut_that_looks_like_damage_is_a_change(name: str, pack: Callable[[bytes], bytes] | None, tmp_path: Path) -> None:
    make = {"a.parquet": containers.parquet, "a.tar": containers.tar_of_texts}.get(name, containers.jsonl)
    content = make([f"{i} words" for i in range(5000)])
    (tmp_path / name).write_bytes(pack(content) if pack else content)
    (file,) = list_inputs(Corpus([str(tmp_path / name)]))
    with (tmp_path / name).open("r+b") as opened:
        opened.truncate(file.bytes // 2)
    with pytest.raises(UserError, match="was changed after it was listed"):
        list(read_documents(Span(file), Rule("line", "text")))


@pytest.mark.parametrize("letter", [b"a", b"\xff"])
@pytest.mark.parametrize(("document", "end"), [("line", b"\n"), ("blank-line", b"\n\n")])
def test_many_short_documents_or_faults_come_some_at_once(letter: bytes, document: str, end: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes((letter + end) * 100_000)
    come = [len(each.texts) + len(each.faults) for each in read_texts(Span(input_file(tmp_path / "a")), Rule(document, "text"))]
    assert sum(come) == 100_000 and max(come) == text._MOST_AT_ONCE


@pytest.mark.parametrize("document", ["line", "blank-line"])
def test_one_huge_line_costs_each_of_its_ranges_no_more_than_the_range(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "_CHUNK_BYTES", 1 << 10)
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 1_000_000 + b"\nend\n")
    stream = BytesIO(path.read_bytes())
    cut = {"line": text.cut_lines, "blank-line": text.cut_paragraphs}[document]
    for start in range(10_000, 900_000, 90_000):
        buffered = BufferedReader(stream, 1 << 10)
        assert not list(cut(buffered, start, start + 10_000))
        assert buffered.detach().tell() <= start + 10_000 + (4 << 10)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("blank", ["", " \t", "\u3000", "\u00a0 ", "\u2003\u0085"])
def test_line_ends_and_blank_lines_of_all_kinds(ending: str, blank: str, tmp_path: Path) -> None:
    documents_of_lines = [[f"document {i} begins", f"文 {i} 。"] for i in range(9)]
    path = tmp_path / "a.txt"
    path.write_bytes(f"{ending}{blank}{ending}".join(ending.join(lines) for lines in documents_of_lines).encode())
    found = read(input_file(path), "blank-line")
    assert [item.splitlines() for item in texts_of(found)] == documents_of_lines
    assert len(texts_of(read(input_file(path), "line"))) == 18
    if ending == "\r":
        assert not any("\r" in item for item in texts_of(found)), "sentences end at LF"


@given(st.lists(st.sampled_from([b"\n", b" ", b"\t", b"word", b"two words", "\u3000".encode(), b"\r", b"\x7f"]), min_size=1))
def test_text_between_blank_lines_is_cut_at_no_other_line(parts: list[bytes]) -> None:
    chunk = b"".join(parts)
    with patch.object(text, "_LEAST_RUN", 1):
        pieces = text._lines_or_runs(chunk)
    assert b"".join(pieces) == chunk and pieces[0] == chunk.splitlines(keepends=True)[0]
    assert pieces[-1].endswith((b"\n", b"\r")) or pieces[-1] == chunk.splitlines(keepends=True)[-1], "a part of a line is alone"
    for lines in (piece.splitlines() for piece in pieces):
        assert len(lines) == 1 or not any(text._is_blank(line) for line in lines)


def test_a_dictionary_of_one_long_text_is_not_unpacked_for_all_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file of some kilobytes, whose column is a gigabyte."""
    monkeypatch.setattr("prep.corpus.parquet._WORST_BATCH_BYTES", 8 << 20)
    text = "A text. " * (1 << 17)
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array([text]))
    pq.write_table(pa.table({"text": column.cast(pa.dictionary(pa.int32(), pa.string()))}), tmp_path / "a.parquet")
    pool = pa.default_memory_pool()
    before, most, count = pool.bytes_allocated(), 0, 0
    for item in read_documents(Span(input_file(tmp_path / "a.parquet", "parquet")), Rule("line", "text")):
        assert isinstance(item, Document) and len(item.text) == len(text)
        most, count = max(most, pool.bytes_allocated() - before), count + 1
    assert count == 1000 and most < 40 << 20

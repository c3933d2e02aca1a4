"""A unit of the corpus -> its tokens and its record, in process."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from token_stores import stored_documents

from prep.corpus.documents import InputFile, Rule, Span
from prep.plan import Unit
from prep.records import UnitRecord
from prep.settings import Splitting
from prep.tokens import batches, merge, tokenize
from prep.tokens.fast import installed_engine
from prep.tokens.store import Documents, Places
from prep.tokens.task import TokenizeTask
from prep.tokens.tokenize import tokenize_unit
from prep.tokens.tokenizer import PreparedTokenizer
from shards.errors import UserError

TEXT = ["One two. Three four.", "   ", "Five six seven.", "One two. Three four.", "{broken", "Eight."]


@pytest.fixture
def task(tmp_path: Path, tokenizer: PreparedTokenizer) -> TokenizeTask:
    lines = [text if text.startswith("{") else json.dumps({"text": text}) for text in TEXT]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    tokenizer.save(str(tmp_path / "tokenizer"))
    file = InputFile(path.name, str(path), path.stat().st_size, "", "jsonl", "")
    return TokenizeTask(
        unit=Unit(0, (Span(file),), file.bytes),
        key="0" * 32,
        rule=Rule("line", "text"),
        splitting=Splitting("language", "en"),
        on_error="skip",
        tokenizer_url=str(tmp_path / "tokenizer"),
        engine=installed_engine(tokenizer.definition),
        store=str(tmp_path / "store"),
        places=Places.make(0.0),
        weights=(),
        by_content=False,
    )


def changed(task: TokenizeTask, **values: Any) -> TokenizeTask:
    return dataclasses.replace(task, **values)


def documents_of(task: TokenizeTask, record: UnitRecord) -> Documents:
    return stored_documents(Path(task.store), [(task.key, record.index_bits, record.stored_bytes)])


def test_the_record_counts_what_was_read_used_and_left_out(task: TokenizeTask) -> None:
    record = tokenize_unit(task)
    documents = documents_of(task, record)
    used = [text for text in TEXT if text.strip() and not text.startswith("{")]
    assert record.documents == len(TEXT) and record.used_documents == len(used) == len(documents.keys)
    assert record.used_bytes == sum(map(len, used)) == int(documents.num_bytes.sum())
    assert record.dropped == {"broken_json": [1, len("{broken")], "no_sentence": [1, 3]}
    assert [fault["reason"] for fault in record.faults] == ["broken_json", "no_sentence"]
    assert record.bytes == record.used_bytes + 3 + len("{broken")
    assert record.sentences == 6 == len(documents.sentence_lengths) and record.tokens == len(documents.ids)
    assert record.stored_documents == sum(record.document_tokens) == len(used)
    assert sum(record.sentence_tokens) == 6
    assert sorted(record.sketch.values()) == [1, 1, 2], "two documents have the same text"
    assert record.corpora == [[len(used), len(used), record.used_bytes, record.tokens]]


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
def test_the_file_and_the_record_do_not_depend_on_batches_and_runs(
    task: TokenizeTask, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tokenize_unit(task)
    monkeypatch.setattr(batches, "BATCH_BYTES", 1)
    monkeypatch.setattr(tokenize, "RUN_BYTES", 1)
    monkeypatch.setattr(merge, "CHUNK_BYTES", chunk_bytes)
    runs = []
    end_run = merge.RunMerger.end_run
    monkeypatch.setattr(merge.RunMerger, "end_run", lambda merger: runs.append(end_run(merger)))
    small_task = changed(task, store=f"{task.store}-small")
    small = tokenize_unit(small_task)
    assert len(runs) == 5
    for record in (small, whole):  # faults are listed by batches: those of reading before those of splitting
        record.faults.sort(key=lambda fault: fault["position"])
    assert small == whole
    files = [Path(each.files_of(whole)[0][0]).read_bytes() for each in (task, small_task)]
    assert files[0] == files[1]


def test_faults_are_counted_and_not_kept_in_memory(task: TokenizeTask) -> None:
    (batch,) = batches.read_batches(task)
    assert batch.left_out.dropped == {"broken_json": [1, len("{broken")]} and batch.documents.faults == []
    assert len(batch.files) == len(batch.documents.texts) == len(TEXT) - 1


def test_a_unit_that_is_done_is_not_done_again(task: TokenizeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tokenize_unit(task)
    monkeypatch.delattr(batches, "read_texts")
    assert tokenize_unit(task) == first
    with pytest.raises(NameError):  # it left out a broken document, which this build must not
        tokenize_unit(changed(task, on_error="stop"))


def test_a_broken_document_stops_the_build_by_name(task: TokenizeTask) -> None:
    with pytest.raises(UserError, match=r"a\.jsonl: at byte \d+: broken json"):
        tokenize_unit(changed(task, on_error="stop"))
    assert not Path(task.record_url).exists()


def test_weights_copy_documents_and_leave_some_out(task: TokenizeTask) -> None:
    twice = changed(task, weights=(2.0,), store=f"{task.store}-twice")
    record = tokenize_unit(twice)
    documents = documents_of(twice, record)
    assert len(documents.keys) == 2 * record.used_documents == len(set(documents.keys.tolist()))
    assert np.count_nonzero(documents.num_bytes) == record.used_documents
    none = tokenize_unit(changed(task, weights=(0.0,), store=f"{task.store}-none"))
    assert none.tokens == 0 and none.dropped["sampled_out"][0] == len(TEXT) - 1, "a broken one is not sampled"


def test_a_mismatch_of_the_fast_tokenizer_makes_the_unit_again_with_the_reference(
    task: TokenizeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = documents_of(task, tokenize_unit(task))
    tokenize._encoder.cache_clear()
    encoder = tokenize._encoder(task.tokenizer_url, task.engine)
    monkeypatch.setattr(encoder, "_encode_fast", lambda batch: (np.empty(0, np.uint32), np.zeros(len(batch), np.int64)))
    again = changed(task, store=f"{task.store}-again")
    assert np.array_equal(documents_of(again, tokenize_unit(again)).ids, right.ids)
    tokenize._encoder.cache_clear()

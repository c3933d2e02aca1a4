from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.records import Duplicates, PairRecord, Tally, UnitRecord, finished


def unit() -> UnitRecord:
    record = UnitRecord(documents=3, tokens=17, stored_bytes=40, dropped={"no_sentence": [1, 9]})
    record.see({7: 2, 2**63 + 1: 1})
    return record


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    pair = PairRecord("train", 1, 5, Tally(9, 8, 1, 0, 3, 0, 0), Duplicates(1, 20, 4), ())
    unit().publish(str(tmp_path / "unit"))
    pair.publish(str(tmp_path / "pair"))
    assert UnitRecord.load(str(tmp_path / "unit")) == unit() and PairRecord.load(str(tmp_path / "pair")) == pair


@given(st.data())
def test_a_record_of_which_any_byte_changed_is_not_finished(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("records")
    url = str(folder / "unit")
    unit().publish(url)
    assert finished(url, UnitRecord.load, lambda record: []) == unit()
    content = bytearray((folder / "unit").read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= data.draw(st.integers(1, 255))
    else:
        del content[place:]
    (folder / "unit").write_bytes(content)
    assert finished(url, UnitRecord.load, lambda record: []) is None


def test_a_record_whose_files_are_gone_or_short_is_not_finished(tmp_path: Path) -> None:
    url, tokens = str(tmp_path / "unit"), tmp_path / "tokens"
    unit().publish(url)
    assert finished(url, UnitRecord.load, lambda record: [(str(tokens), 40)]) is None
    tokens.write_bytes(bytes(39))
    assert finished(url, UnitRecord.load, lambda record: [(str(tokens), 40)]) is None
    tokens.write_bytes(bytes(40))
    assert finished(url, UnitRecord.load, lambda record: [(str(tokens), 40)]) == unit()

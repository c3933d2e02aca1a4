"""Parts of many objects, read at once."""

from pathlib import Path
from typing import Any

import pytest

from shards import storage
from shards.storage import StorageError


def test_ranges_are_read_as_one_by_one(tmp_path: Path, bucket: Any) -> None:
    ranges = []
    for folder in (str(tmp_path), "s3://bucket/ranges"):
        for number in range(9):
            storage.publish(storage.join(folder, str(number)), bytes(range(number, number + 100)))
        ranges.append([(storage.join(folder, str(number)), number * 3, number * 2) for number in range(9)])
    local, far = (storage.read_ranges(each) for each in ranges)
    assert local == far == [storage.read_bytes(*each) if each[2] else b"" for each in ranges[0]]
    for each in ranges:
        with pytest.raises(StorageError, match="ends at byte 100, expected 105"):
            storage.read_ranges([each[2], (each[1][0], 90, 15)])

"""Compressed streams: whatever their members, they are read to the end, and to the place of damage."""

import bz2
import gzip
import lzma
import sys
from collections.abc import Callable
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prep.corpus.compression import COMPRESSIONS, DAMAGED_STREAM, GzipMembers, decompressed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": zstd.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}
ALL = pytest.mark.parametrize("name", sorted(COMPRESSIONS))


@ALL
@given(members=st.lists(st.binary(max_size=300), min_size=1, max_size=5))
@settings(deadline=None, max_examples=30)
def test_members_come_one_after_the_other(name: str, members: list[bytes]) -> None:
    packed = b"".join(map(COMPRESS[name], members))
    assert decompressed(BytesIO(packed), (name,), "url").read() == b"".join(members)


@ALL
def test_a_compression_inside_another(name: str) -> None:
    packed = COMPRESS["gz"](COMPRESS[name](b"words"))
    assert decompressed(BytesIO(packed), ("gz", name), "url").read() == b"words"
    assert decompressed(BytesIO(b"words"), (), "url").read() == b"words"


@ALL
def test_a_truncated_stream_ends_with_an_error_after_what_is_there(name: str) -> None:
    lines = b"".join(b"line %d of a text\n" % i for i in range(100_000))
    stream = decompressed(BytesIO(COMPRESS[name](lines)[:-30]), (name,), "url")
    out = b""
    with pytest.raises(DAMAGED_STREAM):
        while data := stream.read1(1 << 16):  # type: ignore[attr-defined]
            out += data
    assert lines.startswith(out) and (out or name == "bz2")


def test_a_reader_can_stop_at_each_member() -> None:
    members = GzipMembers(BytesIO(gzip.compress(b"one") + b"\0\0" + gzip.compress(b"two")))
    members.stops = True
    assert members.readall() == b"one" and members.next_member()
    assert members.readall() == b"two" and not members.next_member()
    assert members.num_bytes == 6


def test_the_next_member_after_damage_is_found_by_its_beginning() -> None:
    damaged = bytearray(gzip.compress(b"WARC one" * 50))
    damaged[20:30] = b"\xff" * 10
    members = GzipMembers(BytesIO(bytes(damaged) + gzip.compress(b"no record") + gzip.compress(b"WARC two")))
    members.stops = True
    with pytest.raises(DAMAGED_STREAM):
        members.readall()
    assert members.find_member(b"WARC") and members.readall() == b"WARC two"

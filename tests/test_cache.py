"""The cache's folder: what goes for what, never over its limit, shared, and whole after whatever happens to its processes."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from commands import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import UserError
from train.data.cache import MARKER, NEVER, OVERHEAD_BYTES, Cache, CachedShard, Refusal, in_order_of_eviction
from train.data.leases import Lease, Part


def content(number: int, num_bytes: int = 100) -> bytes:
    return (f"shard {number} " * num_bytes).encode()[:num_bytes]


def digest(number: int, num_bytes: int = 100) -> str:
    return sha256(content(number, num_bytes)).hexdigest()


def plan(*numbers: int) -> Mapping[str, int]:
    """Shards of 100 bytes that are needed one after the other."""
    return {digest(number): use for use, number in reversed(list(enumerate(numbers)))}


def fill(cache: Cache, *numbers: int, needs: Mapping[str, int] | None = None) -> list[bool]:
    """Fetches shards of 100 bytes; whether each found its place."""
    found = []
    for number in numbers:
        part = cache.reserve(digest(number), 100, lambda: plan(*numbers) if needs is None else needs)
        found.append(isinstance(part, Part))
        if isinstance(part, Part):
            cache.publish(part, digest(number), content(number))
    return found


def content_of(lease: Lease, start: int, num_bytes: int) -> bytes:
    out = bytearray(num_bytes)
    lease.read_into(start, memoryview(out))
    return bytes(out)


def shards_of(cache: Cache) -> set[int]:
    names = {f"shard-{digest(number)}": number for number in range(30)}
    return {names[path.name] for path in cache.folder.iterdir() if path.name != MARKER}


def used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def room(shards: int) -> int:
    return OVERHEAD_BYTES + 100 * shards


@given(requests=st.lists(st.integers(0, 4), min_size=1, max_size=12), capacity=st.integers(1, 3))
@settings(deadline=None, max_examples=200)
def test_no_policy_has_fewer_misses(requests: list[int], capacity: int) -> None:
    """Held against the best of all choices."""

    def next_use(shard: int, after: int) -> int:
        return next((at for at in range(after, len(requests)) if requests[at] == shard), NEVER)

    @lru_cache(None)
    def best(at: int, held: frozenset[int]) -> int:
        if at == len(requests):
            return 0
        if requests[at] in held:
            return best(at + 1, held)
        all_held = held | {requests[at]}
        kept = combinations(sorted(held), capacity - 1) if len(all_held) > capacity else [tuple(held)]
        return 1 + min(best(at + 1, frozenset(some) | {requests[at]}) for some in kept)

    held: set[int] = set()
    misses = 0
    for at, shard in enumerate(requests):
        if shard in held:
            continue
        misses += 1
        if len(held) == capacity:
            judged = [CachedShard(str(one), 1, next_use(one, at), 0.0) for one in sorted(held)]
            held.remove(int(in_order_of_eviction(judged, at)[0].sha256))
        held.add(shard)
    assert misses == best(0, frozenset())


@given(held=st.lists(st.tuples(st.integers(0, 9) | st.just(NEVER), st.integers(0, 9)), max_size=12), next_use=st.integers(0, 9))
def test_the_farthest_goes_first_and_nothing_that_is_needed_as_soon(held: list[tuple[int, int]], next_use: int) -> None:
    judged = [CachedShard(str(number), 1, use, float(wanted)) for number, (use, wanted) in enumerate(held)]
    order = in_order_of_eviction(judged, next_use)
    assert {one.sha256 for one in order} == {one.sha256 for one in judged if one.next_use > next_use}
    for first, second in pairwise(order):
        assert (first.next_use, -first.last_needed) >= (second.next_use, -second.last_needed)


ACTIONS = st.tuples(st.sampled_from(["fetch", "begin", "end", "fail", "read", "let go"]), st.integers(0, 9))


@given(
    actions=st.lists(ACTIONS, max_size=40),
    needs=st.permutations(range(10)),
    sizes=st.lists(st.integers(1, 200), min_size=10, max_size=10),
    limit=st.integers(0, 600),
)
@settings(deadline=None, max_examples=150)
def test_it_is_never_over_its_limit_and_what_is_read_stays(
    actions: list[tuple[str, int]], needs: list[int], sizes: list[int], limit: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(folder, OVERHEAD_BYTES + limit)
        uses = {digest(number, sizes[number]): use for use, number in enumerate(needs)}
        parts: dict[int, Part] = {}
        leases: dict[int, Lease] = {}
        for action, number in actions:
            name, num_bytes = digest(number, sizes[number]), sizes[number]
            before = {path.name for path in Path(folder).iterdir()}
            if action in ("fetch", "begin") and number not in parts:
                part = cache.reserve(name, num_bytes, lambda: uses)
                if isinstance(part, Part):
                    parts[number] = part
                    assert used(Path(folder)) <= cache.limit, "the space is taken before anything is fetched"
                gone = before - {path.name for path in Path(folder).iterdir()}
                assert all(uses[one.removeprefix("shard-")] > uses[name] for one in gone)
            if action in ("fetch", "end") and number in parts:
                cache.publish(parts.pop(number), name, content(number, num_bytes))
            if action == "fail" and number in parts:
                cache.drop(parts.pop(number))
            if action == "read" and (lease := cache.lease(name, num_bytes)):
                leases[number] = lease
            if action == "let go" and number in leases:
                leases.pop(number).close()
            assert used(Path(folder)) <= cache.limit or len(list(Path(folder).iterdir())) == 1
            for one, held in leases.items():
                assert content_of(held, 0, sizes[one]) == content(one, sizes[one])
                assert (Path(folder) / f"shard-{digest(one, sizes[one])}").exists()
        for part in parts.values():
            cache.drop(part)
        for lease in leases.values():
            lease.close()


def test_what_is_needed_last_goes_and_nothing_for_what_is_needed_later(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path / "cache"), room(3))
    assert fill(cache, 1, 2, 3, 4) == [True, True, True, False] and shards_of(cache) == {1, 2, 3}
    assert fill(cache, 5, needs=plan(1, 5, 3, 2)) == [True] and shards_of(cache) == {1, 3, 5}
    assert fill(cache, 6, needs=plan(6)) == [True] and len(shards_of(cache)) == 3 and cache.take_stats().evictions == 2


def test_of_shards_in_no_plan_the_one_needed_longest_ago_is_evicted(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path / "cache"), room(3))
    fill(cache, 1, 2, 3)
    for age, number in ((30, 1), (10, 2), (20, 3)):
        os.utime(tmp_path / "cache" / f"shard-{digest(number)}", (1e9 - age, 1e9 - age))
    assert cache.touch(digest(1)) and not cache.touch(digest(9))
    fill(cache, 4, needs=plan(4))
    assert shards_of(cache) == {1, 2, 4}


def test_what_is_being_read_or_fetched_stays_and_its_space_counts(tmp_path: Path) -> None:
    cache, other = (Cache(str(tmp_path / "cache"), room(2)) for _ in range(2))
    fill(cache, 1)
    lease = cache.lease(digest(1), 100)
    part = cache.reserve(digest(2), 100, dict)
    assert lease and isinstance(part, Part)
    assert other.reserve(digest(2), 100, dict) is Refusal.TAKEN
    assert other.reserve(digest(3), 100, lambda: plan(3)) is Refusal.FULL
    assert used(cache.folder) == room(2)
    cache.drop(part)
    assert fill(other, 3, needs=plan(3)) == [True] and shards_of(cache) == {1, 3}
    lease.close()
    assert fill(other, 4, 5, needs=plan(4, 5)) == [True, True] and shards_of(cache) == {4, 5}


@pytest.mark.parametrize("damage", ["flipped", "cut", "grown"])
def test_a_shard_that_the_disk_damaged_is_removed_at_its_first_use(damage: str, tmp_path: Path) -> None:
    cache = Cache(str(tmp_path / "cache"), room(2))
    fill(cache, 1)
    path = tmp_path / "cache" / f"shard-{digest(1)}"
    altered = {"flipped": content(1)[:50] + b"!" + content(1)[51:], "cut": content(1)[:-1], "grown": content(1) + b"!"}
    path.write_bytes(altered[damage])
    assert cache.lease(digest(1), 100) is None and not path.exists() and cache.take_stats().damaged == 1
    assert fill(cache, 1) == [True]
    lease = cache.lease(digest(1), 100)
    assert lease is not None and content_of(lease, 6, 2) == b"1 "
    lease.close()


def test_a_folder_of_other_files_is_refused_and_of_ours_only_ours_go(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds other files \(thesis.tex\); choose a new or an empty folder"):
        Cache(str(tmp_path), room(1))
    with pytest.raises(UserError, match="Not a directory"):
        Cache(str(tmp_path / "thesis.tex"), room(1))
    with pytest.raises(UserError, match="must be a folder on a disk of this machine"):
        Cache("s3://bucket/cache", room(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.tex"]
    cache = Cache(str(tmp_path / "new" / "cache"), room(1))
    assert not cache.folder.exists(), "looking writes nothing"
    fill(cache, 1)
    strange = ["notes.txt", "shard-1234", f"shard-{digest(1)}.bak", f"part-{digest(1)}", ".hidden"]
    for name in strange:
        (cache.folder / name).write_text("not of the cache")
    (cache.folder / f"shard-{digest(7)}-copy").mkdir()
    Cache(str(cache.folder), room(1))
    assert fill(cache, 2, needs=plan(2)) == [True]
    assert {path.name for path in cache.folder.iterdir()} == {
        MARKER,
        *strange,
        f"shard-{digest(2)}",
        f"shard-{digest(7)}-copy",
    }


def test_a_disk_that_is_full_is_named_and_leaves_no_part(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk's."""
    code = f"""
import resource, signal
from train.data.cache import Cache
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
Cache({str(tmp_path)!r}, 10**9).reserve("a" * 64, 10**6, dict)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"StorageError: {tmp_path}: cannot use it: File too large" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]


def test_what_a_killed_process_left_half_fetched_counts_until_it_is_removed(tmp_path: Path) -> None:
    code = f"""
import sys
from train.data.cache import Cache
part = Cache({str(tmp_path)!r}, {room(2)}).reserve({digest(1)!r}, 100, dict)
part.write({content(1)[:60]!r})
print("fetching", flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout and child.stdin and child.stdout.readline() == b"fetching\n"
    cache = Cache(str(tmp_path), room(2))
    (part,) = tmp_path.glob("part-*")
    assert part.name.endswith(f"-{os.uname().nodename}-{child.pid}") and used(tmp_path) == room(1)
    assert cache.reserve(digest(1), 100, dict) is Refusal.TAKEN and cache.lease(digest(1), 100) is None
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert part.exists() and used(tmp_path) == room(1)
    assert fill(cache, 1, 2) == [True, True] and not part.exists() and shards_of(cache) == {1, 2}


def test_the_cache_s_folder_may_vanish_under_a_run(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path / "cache"), room(2))
    fill(cache, 1)
    for path in cache.folder.iterdir():
        path.unlink()
    cache.folder.rmdir()
    assert cache.lease(digest(1), 100) is None and not cache.touch(digest(1))
    assert fill(cache, 1) == [True] and shards_of(cache) == {1}

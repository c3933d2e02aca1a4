"""Rows of a remote data set through the cache: the same as from a disk, with each shard fetched when the plan says."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import pytest
from cache_folders import Sampler, room_for_all
from cached_reader import cached_steps, mixed_steps, order_of
from commands import HANG_S, ROOT
from datasets_of_rows import write_data_set
from slow_proxy import SlowProxy

from shards import storage
from shards.errors import UserError
from shards.formats import FORMATS
from shards.schema import columns_sha256
from train.data.cache import MARKER, OVERHEAD_BYTES, Cache
from train.data.leases import Part
from train.data.phase_order import PhaseOrder
from train.data.prefetch import Prefetcher
from train.data.reader import StepRows
from train.data.shard_uses import needed_bytes, uses_in_phase

URL = "memory://cached"


@pytest.fixture(autouse=True)
def empty_memory() -> Iterator[None]:
    yield
    fsspec.filesystem("memory").store.clear()


def digests(steps: Iterator[StepRows], wait_for: Callable[[], bool] = lambda: True) -> list[str]:
    """The digest of each step's rows; with the second step waits until something has happened."""
    found = []
    for number, given in enumerate(steps):
        if number == 1:
            wait_until(wait_for)
        found.append(columns_sha256(given.rows))
    return found


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HANG_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def holds(cache: Cache, shards: int) -> Callable[[], bool]:
    return lambda: len(list(cache.folder.glob("shard-*"))) == shards


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_rows_are_those_of_the_disk_and_each_shard_is_fetched_once(format: str, tmp_path: Path) -> None:
    write_data_set(tmp_path / "data", format=format)
    manifest = write_data_set(URL, format=format)
    cache = Cache(str(tmp_path / "cache"), room_for_all(manifest))
    expected = digests(cached_steps(str(tmp_path / "data"), None, 3))
    assert digests(cached_steps(URL, cache, 3), holds(cache, 3)) == expected
    counts = cache.take_stats()
    assert counts.fetched_shards == 3 and counts.evictions == counts.damaged == counts.failures == 0
    assert counts.hits + counts.misses == 6, "every group is near all the time, and so is decoded once"
    names = {f"shard-{shard.sha256}" for shard in manifest.splits["train"].shards}
    assert {path.name for path in cache.folder.iterdir()} == {MARKER, *names}
    again = Cache(str(tmp_path / "cache"), room_for_all(manifest))
    assert digests(cached_steps(URL, again, 3)) == expected
    assert vars(again.take_stats()) == vars(counts) | {"hits": 6, "misses": 0, "fetched_shards": 0, "fetched_bytes": 0}


def test_the_shards_of_a_mixture_are_fetched_once_each(tmp_path: Path) -> None:
    """Two data sets in buckets, and one on a disk between them."""
    rows = {"a": (40, 7, 25), "b": (20, 11), "c": (30,)}
    local = [str(tmp_path / name) for name in rows]
    for seed, name in enumerate(rows):
        write_data_set(tmp_path / name, rows[name], seed=seed)
    manifests = [write_data_set(f"{URL}-{name}", rows[name], seed=seed) for seed, name in enumerate(rows)]
    urls = [f"{URL}-a", local[1], f"{URL}-c"]
    cache = Cache(str(tmp_path / "cache"), sum(room_for_all(manifest) for manifest in manifests))
    expected = digests(mixed_steps(local, None, (50, 3, 31), 400))
    assert digests(mixed_steps(urls, cache, (50, 3, 31), 400), holds(cache, 4)) == expected
    counts = cache.take_stats()
    assert counts.fetched_shards == 4 and counts.evictions == counts.damaged == counts.failures == 0
    names = {f"shard-{shard.sha256}" for manifest in manifests[::2] for shard in manifest.splits["train"].shards}
    assert {path.name for path in cache.folder.iterdir()} == {MARKER, *names}


def test_a_cache_that_is_too_small_for_all_evicts_and_stays_within_its_limit(
    tmp_path: Path,
) -> None:
    """With one lane, so that shards are needed one after the other."""
    sizes = [1500] * 8
    write_data_set(tmp_path / "data", sizes, group_rows=200, packed=False)
    manifest = write_data_set(URL, sizes, group_rows=200, packed=False)
    limit = OVERHEAD_BYTES + needed_bytes(manifest.splits["train"].shards, 1)
    cache = Cache(str(tmp_path / "cache"), limit)
    with Sampler(cache.folder) as sampler:
        given = digests(cached_steps(URL, cache, 2, max_lanes=1), holds(cache, 3))
    assert given == digests(cached_steps(str(tmp_path / "data"), None, 2, max_lanes=1))
    assert 0 < sampler.most <= limit and sampler.samples > 20
    counts = cache.take_stats()
    assert counts.evictions > 0 and counts.fetched_shards > 3 and counts.hits > 0


def test_two_ranks_share_what_one_of_them_fetched(tmp_path: Path) -> None:
    write_data_set(tmp_path / "data")
    manifest = write_data_set(URL)
    caches = [Cache(str(tmp_path / "cache"), room_for_all(manifest)) for _ in range(2)]
    found: dict[int, list[str]] = {}

    def read(rank: int) -> None:
        found[rank] = digests(cached_steps(URL, caches[rank], 4, rank, 2), holds(caches[rank], 3))

    threads = [threading.Thread(target=read, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rank in range(2):
        assert found[rank] == digests(cached_steps(str(tmp_path / "data"), None, 4, rank, 2))
    assert sum(cache.take_stats().fetched_shards for cache in caches) == 3


def test_an_altered_shard_in_the_bucket_is_named(tmp_path: Path) -> None:
    manifest = write_data_set(URL)
    other = write_data_set("memory://other", seed=1)
    shard = manifest.splits["train"].shards[1]
    storage.publish(storage.join(URL, shard.path), storage.read_bytes(f"memory://other/{shard.path}"))
    cache = Cache(str(tmp_path / "cache"), room_for_all(manifest) + room_for_all(other))
    with pytest.raises(UserError, match=r"000001-0000\S+: its sha256 is [0-9a-f]{64}, the manifest says|row group \d+ cannot"):
        digests(cached_steps(URL, cache, 200), holds(cache, 2))
    assert not list(cache.folder.glob("part-*")) and not (cache.folder / f"shard-{shard.sha256}").exists()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("prefetch", "shards", "groups"))]


def test_a_shard_that_cannot_be_fetched_whole_is_read_by_ranges_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mock: no server here fails for whole files only."""
    write_data_set(tmp_path / "data")
    manifest = write_data_set(URL)
    fetched: list[str] = []

    def fail_first(url: str, shard: Any) -> bytes:
        fetched.append(shard.path)
        if fetched.count(shard.path) == 1:
            raise storage.StorageError(f"{url}: the server is on fire")
        return storage.read_bytes(url)

    monkeypatch.setattr("train.data.prefetch.fetch_whole", fail_first)
    monkeypatch.setattr("train.data.prefetch._RETRY_S", 0.01)
    cache = Cache(str(tmp_path / "cache"), room_for_all(manifest))
    expected = digests(cached_steps(str(tmp_path / "data"), None, 50))
    assert digests(cached_steps(URL, cache, 50), holds(cache, 3)) == expected
    counts = cache.take_stats()
    assert counts.failures == 3 and counts.fetched_shards == 3 and counts.hits + counts.misses == 6


def test_a_fault_of_a_fetching_thread_reaches_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock: memory cannot be made to run out here."""
    manifest = write_data_set(URL)

    dead: list[object] = []

    def die(*_: object) -> bytes:
        dead.append(_)
        raise MemoryError("no memory for a shard")

    monkeypatch.setattr("train.data.prefetch.fetch_whole", die)
    with pytest.raises(MemoryError, match="for a shard"):
        digests(cached_steps(URL, Cache(str(tmp_path / "cache"), room_for_all(manifest)), 200), lambda: bool(dead))


@pytest.mark.parametrize("when", ["between runs", "while it is read"])
def test_a_shard_that_the_disk_damaged_is_fetched_again(when: str, tmp_path: Path) -> None:
    write_data_set(tmp_path / "data")
    manifest = write_data_set(URL)
    cache = Cache(str(tmp_path / "cache"), room_for_all(manifest))
    expected = digests(cached_steps(str(tmp_path / "data"), None, 40))
    digests(cached_steps(URL, cache, 1), holds(cache, 3))
    shard = manifest.splits["train"].shards[0]
    steps = cached_steps(URL, cache, 40)
    given = digests(islice(steps, 2)) if when == "while it is read" else []
    path = cache.folder / f"shard-{shard.sha256}"
    damaged = bytearray(path.read_bytes())
    for group in shard.row_groups:
        damaged[group.offset + group.bytes // 2] ^= 1
    with path.open("r+b") as file:
        file.write(damaged)
    assert given + digests(steps) == expected
    if when == "between runs":  # otherwise rows were decoded already, perhaps all of them
        assert sha256(path.read_bytes()).hexdigest() == shard.sha256 and cache.take_stats().damaged == 1


def test_leases_are_held_for_what_is_near_and_for_nothing_after(tmp_path: Path) -> None:
    manifest = write_data_set(URL, [1000] * 8, group_rows=200, packed=False)
    cache = Cache(str(tmp_path / "cache"), room_for_all(manifest))
    for shard in manifest.splits["train"].shards:
        part = cache.reserve(shard.sha256, shard.bytes, dict)
        assert isinstance(part, Part)
        cache.publish(part, shard.sha256, storage.read_bytes(storage.join(URL, shard.path)))
    most = 0
    for _ in cached_steps(URL, cache, 1, max_lanes=1):
        most = max(most, _open_files(cache.folder))
    assert 0 < most < 8 and _open_files(cache.folder) == 0
    counts = cache.take_stats()
    assert (counts.hits, counts.misses, counts.fetched_bytes) == (40, 0, 0)


def _open_files(folder: Path) -> int:
    paths = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]  # noqa: PTH208  # names
    return sum(path.exists() and folder in path.resolve().parents for path in paths)


def test_only_so_much_is_fetched_ahead(tmp_path: Path) -> None:
    """What is in use and two uses more of the lane: a run that is stopped early has not fetched the whole bucket."""
    manifest = write_data_set(URL, [4000] * 6, group_rows=500, packed=False)
    cache = Cache(str(tmp_path / "cache"), room_for_all(manifest))
    steps = cached_steps(URL, cache, 1, max_lanes=1)
    next(steps)
    order = order_of(manifest, max_lanes=1)
    uses = uses_in_phase(PhaseOrder.of_one(order), {0: range(1)}, order.groups.num_rows)(0)
    wanted = {number for chunk in range(3) for number in uses.ahead(chunk * 2040, 2)}  # as far as the reader has looked
    wait_until(holds(cache, len(wanted)))
    time.sleep(0.3)  # for one more
    steps.close()  # type: ignore[attr-defined]  # a generator
    assert len(wanted) < 6
    names = {f"shard-{manifest.splits['train'].shards[number].sha256}" for number in wanted}
    assert {path.name for path in cache.folder.glob("shard-*")} == names


def test_a_killed_process_s_share_is_taken_over_and_no_half_shard_is_read(
    bucket: Any, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes on an empty cache; one is killed while it fetches two of the three shards."""
    manifest = write_data_set(tmp_path / "data")
    for path in (tmp_path / "data").rglob("*.*"):
        bucket.upload_file(str(path), "bucket", f"data/{path.relative_to(tmp_path / 'data')}")
    shards = {f"shard-{shard.sha256}": shard for shard in manifest.splits["train"].shards}
    proxy = SlowProxy(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    proxy.held = lambda answer: answer.method == "GET" and answer.sent in {shard.bytes for shard in shards.values()}
    folder = tmp_path / "cache"
    first = _reader("s3://bucket/data", folder, room_for_all(manifest), tmp_path / "first.txt")
    assert proxy.stopped.acquire(timeout=HANG_S) and proxy.stopped.acquire(timeout=HANG_S)
    proxy.held = lambda answer: False
    held = {path.name.split("-")[1] for path in folder.glob("part-*")}
    assert len(held) == 2 and not list(folder.glob("shard-*"))
    second = _reader("s3://bucket/data", folder, room_for_all(manifest), tmp_path / "second.txt")
    try:
        wait_until(lambda: len(list(folder.glob("shard-*"))) == 1)  # the third, fetched by the second process
        wait_until(lambda: len((tmp_path / "second.txt").read_text().splitlines()) > 20)
        assert {path.name.split("-")[1] for path in folder.glob("part-*")} == held, "these are the first one's"
        first.kill()
        wait_until(lambda: len(list(folder.glob("shard-*"))) == 3)
        lines = len((tmp_path / "second.txt").read_text().splitlines())
        wait_until(lambda: len((tmp_path / "second.txt").read_text().splitlines()) > lines + 20)
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
        proxy.close()
    assert not list(folder.glob("part-*"))
    for name, shard in shards.items():
        assert sha256((folder / name).read_bytes()).hexdigest() == shard.sha256
    expected = [f"{step} {digest}" for step, digest in enumerate(digests(cached_steps(str(tmp_path / "data"), None, 60)))]
    for name in ("first.txt", "second.txt"):
        lines_of = (tmp_path / name).read_text().splitlines()[:300]
        assert lines_of and lines_of == expected[: len(lines_of)], f"{name}: what was read was whole"


def _reader(url: str, folder: Path, limit: int, out: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, str(ROOT / "tests" / "cached_reader.py"), url, str(folder), str(limit)]
    with out.open("wb") as file:
        return subprocess.Popen(command, env=environment, stdout=file)


def test_the_plan_is_kept_up_to_where_the_reader_is(tmp_path: Path) -> None:
    """A prefetcher without a reader does nothing, and ends at once."""
    manifest = write_data_set(URL)
    cache = Cache(str(tmp_path / "cache"), room_for_all(manifest))
    prefetcher = Prefetcher(cache, [(URL, manifest.splits["train"].shards)], lambda position: pytest.fail("not asked"), 2)
    prefetcher.close()
    assert not cache.folder.exists()

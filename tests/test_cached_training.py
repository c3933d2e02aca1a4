"""Training from a bucket through the cache: real processes, and a server that is slow and fails."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from cache_folders import Sampler, room_for_all
from cached_reader import cached_steps
from datasets_of_rows import write_data_set
from launch import SMALL, metrics, row_log, run
from slow_proxy import SlowProxy
from streams import keys, stream

from shards.command.numbers import size
from shards.command.options import flag
from shards.errors import UserError
from shards.manifest import Manifest
from train.data.cache import MARKER, OVERHEAD_BYTES, Cache
from train.data.shard_uses import needed_bytes
from train.evaluate import HeldOut, Scores
from train.ranks import Ranks
from train.settings import Settings
from train.start.dry_run import describe
from train.start.prepare import prepare

# 40 steps of 12 rows.
SHARD_ROWS = [60, 65, 58, 62, 59, 57, 66, 53]


@pytest.fixture
def remote() -> Iterator[Manifest]:
    yield write_data_set("memory://stream")
    fsspec.filesystem("memory").store.clear()


def test_a_stream_reads_through_the_cache(remote: Manifest, tmp_path: Path) -> None:
    write_data_set(tmp_path / "data")
    options = {"cache": str(tmp_path / "cache"), "cache_bytes": room_for_all(remote)}
    for rank in range(2):
        cached = stream("memory://stream", rank=rank, world_size=2, epochs=3, **options)  # type: ignore[arg-type]  # a URL
        assert not (tmp_path / "cache").exists() or rank == 1
        assert keys(cached) == keys(stream(tmp_path / "data", rank=rank, world_size=2, epochs=3))
    assert (tmp_path / "cache" / MARKER).exists()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_a_data_set_on_a_disk_is_not_cached_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data_set(tmp_path / "data")
    stream(tmp_path / "data", cache=str(tmp_path / "cache"), cache_bytes=10**9)
    line = f"--cache {tmp_path}/cache: has no effect, because {tmp_path}/data is on a disk"
    assert line in capsys.readouterr().err and not (tmp_path / "cache").exists()


def test_what_makes_no_cache(remote: Manifest, tmp_path: Path) -> None:
    needed = needed_bytes(remote.splits["train"].shards, 1) + OVERHEAD_BYTES
    for options, message in (
        ({"cache": "c"}, "--cache is set without --cache-bytes"),
        ({"cache_bytes": 5}, "--cache-bytes is set without --cache"),
        ({"cache": "s3://bucket/cache", "cache_bytes": 10**9}, "must be a folder on a disk of this machine"),
        (
            {"cache": str(tmp_path / "c"), "cache_bytes": needed - 1},
            rf"--cache-bytes {needed - 1} is too small for two shards of each .* \(1 lanes\); set {needed} \(.* kB\) or more",
        ),
    ):
        with pytest.raises(UserError, match=message):
            stream("memory://stream", **options)  # type: ignore[arg-type]  # a URL
    assert list(tmp_path.iterdir()) == []


def test_two_ranks_from_a_slow_and_failing_bucket(
    bucket: Any, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50 ms and a fault in every 20th answer; then a second start, with one shard damaged on the disk meanwhile."""
    manifest = write_data_set(tmp_path / "data", SHARD_ROWS, group_rows=10)
    for path in (tmp_path / "data").rglob("*.*"):
        bucket.upload_file(str(path), "bucket", f"data/{path.relative_to(tmp_path / 'data')}")
    proxy = SlowProxy(s3_server, delay_s=0.05, fail_every=20)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    out, folder, limit = tmp_path / "run", tmp_path / "cache", 2 * room_for_all(manifest)
    options = ("--data", "s3://bucket/data", "--out", out, "--model", "tiny", *SMALL, "--log-every", 10, "--cache", folder)
    options += ("--cache-bytes", limit, "--row-log", tmp_path / "row_log")
    shards = {shard.bytes: f"/bucket/data/{shard.path}" for shard in manifest.splits["train"].shards}
    damaged = manifest.splits["train"].shards[3]
    try:
        with Sampler(folder) as sampler:
            code, _, err = run(2, *options, "--epochs", 1)
            assert code == 0, err
            assert sorted(_fetched_whole(proxy, shards)) == sorted(shards.values()), "each once, by one rank or the other"
            assert sum(answer.failed for answer in proxy.answers) >= 3
            sums = _sums(metrics(out))
            assert sums["cache_fetched_bytes"] >= sum(shards) and sums["cache_misses"] > 0
            assert sums["cache_evictions"] == sums["cache_damaged"] == 0
            (folder / f"shard-{damaged.sha256}").write_bytes(b"0" * damaged.bytes)
            proxy.answers.clear()
            code, _, err = run(0, *options, "--epochs", 2)
            assert code == 0 and "1 shards were damaged on the disk" in err, err
            assert _fetched_whole(proxy, shards) == [f"/bucket/data/{damaged.path}"]
    finally:
        proxy.close()
    assert 0 < sampler.most <= limit and sampler.samples > 50
    warm = _sums([line for line in metrics(out) if line["step"] > 40])
    assert warm["cache_hits"] > 3 * warm["cache_misses"] and warm["cache_damaged"] == 1
    expected = {given.step: given.row_ids.tolist() for given in cached_steps(str(tmp_path / "data"), None, 2, seed=0)}
    assert row_log(tmp_path / "row_log") == expected, "the rows that a disk gives"


def _fetched_whole(proxy: SlowProxy, shards: dict[int, str]) -> list[str]:
    answers = [answer for answer in proxy.answers if answer.method == "GET" and not answer.failed]
    return [answer.path for answer in answers if shards.get(answer.sent) == answer.path]


def _sums(lines: list[dict[str, Any]]) -> dict[str, int]:
    return {name: sum(line[name] for line in lines) for name in lines[0] if name.startswith("cache_")}


@pytest.fixture
def options(bucket: Any, tmp_path: Path) -> dict[str, Any]:
    """Settings of a run on a data set in the bucket, but for the size of the cache."""
    write_data_set("s3://bucket/data")
    places = {"data": ("s3://bucket/data",), "out": str(tmp_path / "run"), "cache": str(tmp_path / "cache")}
    return {**places, "model": "tiny", "global_batch": 12, "micro_batch": 3, "epochs": 1}


def test_a_cache_that_is_too_small_ends_the_command(options: dict[str, Any], tmp_path: Path) -> None:
    arguments = [
        part for name, value in options.items() for part in (flag(name), value[0] if isinstance(value, tuple) else value)
    ]
    code, _, err = run(0, *arguments, "--cache-bytes", "1kB", "--dry-run")
    assert code == 2 and len(err.splitlines()) == 1, err
    assert "train: error: --cache-bytes 1024 is too small for two shards of each lane that this machine reads" in err
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_the_cache_must_hold(options: dict[str, Any], tmp_path: Path) -> None:
    described, said = prepare([Settings(**options, cache_bytes=10**6)], Ranks(0, 1, torch.device("cpu")))
    needed = needed_bytes(described.sources[0].manifest.splits["train"].shards, 1)
    line = f"cache: {tmp_path}/cache, up to 1.0 MB; it needs room for two shards per lane (1 lanes, {size(needed)})"
    assert line in describe(described) and not any("cache" in line for line in said)
    assert list(tmp_path.iterdir()) == []


def test_scores_are_made_through_the_cache(options: dict[str, Any], tmp_path: Path) -> None:
    described, _ = prepare([Settings(**options, cache_bytes=10**6)], Ranks(0, 1, torch.device("cpu")))

    def scores(cache: Cache | None) -> Scores:
        held_out = HeldOut("s3://bucket/data", described.sources[0].manifest, described.ranks, 4, "padded", cache)
        return held_out.score(described.packed, 0, described.autocast)

    plain = scores(None)
    assert scores(described.cache) == plain
    (shard,) = described.sources[0].manifest.splits["eval"].shards
    assert [path.name for path in (tmp_path / "cache").glob("shard-*")] == [f"shard-{shard.sha256}"]
    assert scores(described.cache) == plain and described.cache is not None
    assert described.cache.take_stats().fetched_shards == 1

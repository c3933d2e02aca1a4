"""Builds through Dask, with a real scheduler and real worker processes, into a bucket; killed and finished again."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import HANG_S, ROOT, manifest_of, run_prep

from prep.build import build
from prep.settings import Settings

pytest.importorskip("distributed")
AWS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
ARGUMENTS = ("--copies", 4, "--shard-bytes", "200KB")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """A scheduler and workers without nannies: what is killed stays dead until `start` makes it whole."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self, workers: int) -> None:
        self.stop()
        self.scheduler = self._process("dask_scheduler", "--host", self.address, "--no-dashboard", "--no-jupyter")
        flags = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(self._folder))
        self.workers = [self._process("dask_worker", self.address, *flags) for _ in range(workers)]

    def stop(self) -> None:
        for process in [*self.workers, *([self.scheduler] if self.scheduler else [])]:
            process.kill()
            process.wait()

    def _process(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        with open(self._folder / "log.txt", "ab") as log:
            command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments]
            return subprocess.Popen(command, cwd=ROOT, env=self._environment, stdout=log, stderr=log)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, s3_server: str) -> Iterator[Cluster]:
    """A running one, whose workers find the bucket."""
    environment = os.environ | AWS | {"AWS_ENDPOINT_URL": s3_server, "PYTHONPATH": str(ROOT)}
    made = Cluster(tmp_path_factory.mktemp("dask"), environment)
    made.start(workers=3)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, corpus: Path, vocabulary: Path) -> dict[str, Any]:
    """The manifest of the same build on a disk, by local processes."""
    folder = tmp_path_factory.mktemp("local")
    places = ("--corpus", corpus, "--out", folder / "out", "--scratch", folder / "scratch")
    done = run_prep("build", *places, "--tokenizer", vocabulary, "--workers", 1, *ARGUMENTS)
    assert done.returncode == 0, done.stderr
    return manifest_of(folder / "out")


def command(cluster: Cluster, vocabulary: Path, name: str) -> list[str]:
    places = (
        "--corpus",
        "s3://bucket/paragraphs.txt",
        "--out",
        f"s3://bucket/{name}",
        "--scratch",
        f"s3://bucket/{name}-scratch",
    )
    flags = (*places, "--tokenizer", vocabulary, *ARGUMENTS, "--engine", f"dask:{cluster.address}")
    return [sys.executable, "-m", "prep", "build", *map(str, flags)]


def keys(bucket: Any, prefix: str) -> list[str]:
    return [entry["Key"] for entry in bucket.list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])]


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + HANG_S
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)


@pytest.mark.long
def test_a_build_through_dask_into_a_bucket_is_the_local_one(
    cluster: Cluster, bucket: Any, corpus: Path, vocabulary: Path, expected: dict[str, Any]
) -> None:
    bucket.upload_file(str(corpus), "bucket", "paragraphs.txt")
    done = subprocess.run(
        command(cluster, vocabulary, "whole"),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(re.match("tokenize|pair|train:|eval:|documents|s3:|data_|   ", line) for line in done.stderr.splitlines())
    manifest = json.loads(bucket.get_object(Bucket="bucket", Key="whole/manifest.json")["Body"].read())
    assert manifest["splits"] == expected["splits"] and manifest["ledger"] == expected["ledger"]


def test_a_build_through_dask_survives_its_workers_and_its_scheduler(
    cluster: Cluster, bucket: Any, corpus: Path, vocabulary: Path, expected: dict[str, Any]
) -> None:
    """One worker is killed while it tokenizes, the scheduler while they pair; the same command ends on new ones."""
    bucket.upload_file(str(corpus), "bucket", "paragraphs.txt")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = command(cluster, vocabulary, "killed")
    running = subprocess.Popen(run, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: any(key.endswith(".json") for key in keys(bucket, "killed-scratch/tokens-")), running)
    cluster.workers[0].send_signal(signal.SIGKILL)
    wait_for(lambda: keys(bucket, "killed/_build/"), running)
    assert cluster.scheduler is not None
    cluster.scheduler.send_signal(signal.SIGKILL)
    _, errors = running.communicate(timeout=HANG_S)
    lines = [line for line in errors.splitlines() if not line.startswith(("tokenize", "pair"))]
    assert len(lines) == 1, errors
    line = lines[0]
    assert running.returncode == 2 and "its scheduler is gone" in line and "run the same command again" in line, errors
    assert "Traceback" not in errors and not keys(bucket, "killed/manifest.json")
    before = keys(bucket, "killed/_build/")
    cluster.start(workers=2)
    again = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert again.returncode == 0 and "tokenize 100% kept from an earlier run" in again.stderr, again.stderr
    manifest = json.loads(bucket.get_object(Bucket="bucket", Key="killed/manifest.json")["Body"].read())
    assert manifest["data_fingerprint"] == expected["data_fingerprint"] and manifest["ledger"] == expected["ledger"]
    assert before and not keys(bucket, "killed/_build/pair")


@pytest.mark.parametrize("exchange", ["one-level", pytest.param("two-level", marks=pytest.mark.long)])
def test_shards_of_every_stage_in_any_order_into_a_bucket(
    exchange: str, bucket: Any, corpus: Path, vocabulary: Path, expected: dict[str, Any]
) -> None:
    bucket.upload_file(str(corpus), "bucket", "paragraphs.txt")
    places = {"corpus": ("s3://bucket/paragraphs.txt",), "out": "s3://bucket/shards", "scratch": "s3://bucket/shards-scratch"}
    common = {**places, "tokenizer": str(vocabulary), "copies": 4, "shard_bytes": 200 << 10, "engine": "executors:threads"}
    for stage, order in (("tokenize", (2, 0, 1)), ("merge", (1, 0, 2)), ("pair", (1, 2, 0)), ("commit", (2, 1, 0))):
        for index in order:
            settings = Settings(**common, workers=2, exchange=exchange, stage=stage, task_shard=f"{index}/3")
            manifest = build(settings)
    assert manifest and manifest.data_fingerprint == expected["data_fingerprint"]

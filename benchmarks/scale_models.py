"""Small models of large corpora, on a server of objects whose requests are counted and delayed. For `scale`."""

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import create_server
from typing import Any
from unittest.mock import patch

import boto3
import s3fs
from botocore.exceptions import EndpointConnectionError

from prep import estimate, partitions, plan, stages
from prep.tokens import sources

BUCKET = "s3://bucket"
# Units, partitions and merged files are so many times as small.
MODEL_SCALE = 1024
_LINE = "the of a model text large small token pair mask shard row unit place key file disk store bucket range corpus"
_WORDS = _LINE.split()


@contextmanager
def moto() -> Iterator[str]:
    """The endpoint of an S3 server in a process of its own, which has an empty bucket; s3fs finds it."""
    with create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    values = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    values["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server,
        patch.dict(os.environ, values),
    ):
        try:
            _make_bucket(server)
            yield values["AWS_ENDPOINT_URL"]
        finally:
            server.kill()


def _make_bucket(server: "subprocess.Popen[bytes]") -> None:
    """Waits for the server. Raises RuntimeError if it ends."""
    while server.poll() is None:
        with suppress(EndpointConnectionError):
            boto3.client("s3").create_bucket(Bucket=BUCKET.removeprefix("s3://"))
            return
        time.sleep(0.1)
    raise RuntimeError("the server of objects does not start: python -m moto.server")


@contextmanager
def counted_requests(latency_s: float) -> Iterator[Counter[str]]:
    """Counts the requests that s3fs makes, by the stage whose task runs, and delays each."""
    counter: Counter[str] = Counter()
    stage = ["parent"]
    original = s3fs.S3FileSystem._call_s3

    async def call(fs: Any, method: str, *arguments: Any, **options: Any) -> Any:
        counter[stage[0]] += 1
        await asyncio.sleep(latency_s)
        return await original(fs, method, *arguments, **options)

    def within(name: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def run(task: Any) -> Any:
            stage[0] = name
            try:
                return function(task)
            finally:
                stage[0] = "parent"

        return run

    tasks = {"tokenize": "tokenize_unit", "merge": "merge_units", "pair": "pair_partition"}
    with patch.object(s3fs.S3FileSystem, "_call_s3", call):
        originals = {name: getattr(stages, function) for name, function in tasks.items()}
        for name, function in tasks.items():
            setattr(stages, function, within(name, originals[name]))
        try:
            yield counter
        finally:
            for name, function in tasks.items():
                setattr(stages, function, originals[name])


class Inline(Executor):
    """Runs each task at once in this process, so that its requests can be counted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The result of the call, which is done."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def inline(workers: int) -> Executor:
    """The executor of `--engine benchmarks.scale_models:inline`."""
    return Inline()


@contextmanager
def model_sizes() -> Iterator[None]:
    """Units, partitions and merged files that are MODEL_SCALE times as small."""
    changes: list[tuple[Any, str, int]] = [
        (plan, "CUT_FROM", plan.CUT_FROM // MODEL_SCALE),
        (plan, "MIB", plan.MIB // MODEL_SCALE),
        (plan, "MAX_SPAN_BYTES", plan.MAX_SPAN_BYTES // MODEL_SCALE),
        (plan, "MAX_UNIT_BYTES", plan.MAX_UNIT_BYTES // MODEL_SCALE),
        (plan, "MIN_PARTITION_BYTES", plan.MIN_PARTITION_BYTES // MODEL_SCALE),
        (plan, "MAX_PARTITION_BYTES", plan.MAX_PARTITION_BYTES // MODEL_SCALE),
        (plan, "SMALL_PARTITION_BYTES", plan.SMALL_PARTITION_BYTES // MODEL_SCALE),
        (partitions, "MERGE_BYTES", partitions.MERGE_BYTES // MODEL_SCALE),
        (partitions, "MIN_DOCUMENTS", 2),
        (sources, "WHOLE_BYTES", 0),
        (estimate, "WHOLE_BYTES", 0),
    ]
    patches = [patch.object(module, name, value) for module, name, value in changes]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


def text_of(num_bytes: int, sentences: int = 12) -> Iterator[str]:
    """Lines of so many sentences of about 70 bytes, the same every time."""
    written = number = 0
    while written < num_bytes:
        texts = []
        for s in range(sentences):
            words = (_WORDS[(number * 7 + s * 5 + w * (number % 13 + 1)) % len(_WORDS)] for w in range(6 + (number + s) % 12))
            texts.append(" ".join(words).capitalize() + ".")
        line = f"Line {number}. {' '.join(texts)}\n"
        yield line
        written += len(line)
        number += 1


def write_text(folder: Path, num_bytes: int, num_files: int, sentences: int = 12) -> Path:
    """The text of `text_of` in files that are about equally large."""
    folder.mkdir(parents=True)
    files = [(folder / f"part-{number:05d}.txt").open("w") for number in range(num_files)]
    for number, line in enumerate(text_of(num_bytes, sentences)):
        files[number % num_files].write(line)
    for file in files:
        file.close()
    return folder

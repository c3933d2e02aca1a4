"""Would obstore serve as the fsspec backend of buckets? Tries it beside s3fs, on a real S3 server behind a proxy with faults.

    pip install --target FOLDER --no-deps obstore; PYTHONPATH=FOLDER python -m benchmarks.obstore_trial

Each backend runs in a process of its own and does the same through fsspec's interface: what it costs to load, how fast it
reads and writes, and what it raises or does where names are odd and servers fail. docs/storage.md says what was decided.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, table

sys.path.append(str(ROOT / "tests"))
from faulty_proxy import FaultyProxy
from nanio_server import KEYS, NanioServer
from servers import free_port

MB = 1_000_000
WHOLE_MB, RANGES, RANGE_BYTES, LATENCY_S = 128, 200, 64_000, 0.03
PATIENCE_S = 45.0


def memory_mb(name: str) -> float:
    """VmRSS or VmHWM of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1e3


def open_backend(backend: str, endpoint: str) -> Any:
    """The file system, with the few seconds of patience that our own retries leave to a backend."""
    if backend == "obstore":
        from datetime import timedelta

        from obstore.fsspec import FsspecStore  # type: ignore[import-not-found,unused-ignore]

        retry = {"max_retries": 0, "retry_timeout": timedelta(seconds=5)}
        options = {"allow_http": True, "timeout": "30 seconds", "connect_timeout": "10 seconds"}
        return FsspecStore(
            "s3", endpoint=endpoint, client_options=options, retry_config=retry, virtual_hosted_style_request=False
        )
    import s3fs

    retries = {"retries": {"mode": "standard", "total_max_attempts": 1}, "max_pool_connections": 64}
    fs = s3fs.S3FileSystem(endpoint_url=endpoint, use_listings_cache=False, config_kwargs=retries)
    fs.retries = 1
    return fs


def outcome(action: Callable[[], Any]) -> str:
    """What an action returns or raises, in a few words; `hangs` after a while."""
    found = ["hangs"]

    def run() -> None:
        try:
            value = action()
            found[0] = f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)
        except Exception as error:
            status = getattr(getattr(error, "response", None), "get", lambda *_: {})("ResponseMetadata", {})
            shown = " ".join(str(error).split())[:70]
            found[0] = f"{type(error).__name__}{' (has its status)' if status else ''}: {shown}"

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return found[0]


def timed(action: Callable[[], Any]) -> float:
    """Seconds that an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def many_ranges(fs: Any, path: str) -> None:
    """Ranges of one object, 32 in flight."""

    async def read() -> None:
        gate = asyncio.Semaphore(32)

        async def one(start: int) -> None:
            async with gate:
                await fs._cat_file(path, start=start, end=start + RANGE_BYTES)

        await asyncio.gather(*(one(number * RANGE_BYTES) for number in range(RANGES)))

    from fsspec.asyn import sync

    sync(fs.loop, read)


def trial(backend: str, folder: str) -> dict[str, str]:
    """All measurements of one backend."""
    before, started = memory_mb("VmRSS"), time.perf_counter()
    server = NanioServer(Path(folder), free_port())
    (Path(folder) / "bucket").mkdir(exist_ok=True)
    server.start()
    proxy, base = FaultyProxy(server.port), f"http://127.0.0.1:{server.port}"
    found: dict[str, str] = {}
    try:
        before, started = memory_mb("VmRSS"), time.perf_counter()
        fs = open_backend(backend, base)
        outcome(lambda: fs.cat_file("bucket/nothing"))
        found["first answer"] = f"{time.perf_counter() - started:.2f} s, {memory_mb('VmRSS') - before:.0f} MB"
        seconds = timed(lambda: fs.pipe_file("bucket/large", bytes(WHOLE_MB * MB)))
        found["write, MB/s"] = f"{WHOLE_MB / seconds:.0f}"
        seconds = min(timed(lambda: fs.cat_file("bucket/large")) for _ in range(3))
        found["read whole, MB/s"] = f"{WHOLE_MB / seconds:.0f}"
        found["peak memory"] = f"{memory_mb('VmHWM') - before:.0f} MB"
        slow = open_backend(backend, proxy.url)
        proxy.latency_s = LATENCY_S
        found[f"{RANGES} ranges at 30 ms"] = f"{timed(lambda: many_ranges(slow, 'bucket/large')):.2f} s"
        proxy.latency_s = 0.0
        found["missing object"] = outcome(lambda: fs.cat_file("bucket/nothing"))
        found["missing bucket"] = outcome(lambda: fs.cat_file("nobucket/nothing"))
        for name in ("a#b?c", "a b+ä", "x[1]*", "a//b"):
            found[f"name {name!r}"] = outcome(
                lambda name=name: (fs.pipe_file(f"bucket/{name}", b"12345"), fs.cat_file(f"bucket/{name}"))[1]
            )  # type: ignore[misc]
        found["info has ETag"] = outcome(lambda: sorted(fs.info("bucket/large")))
        found["unstrip_protocol"] = outcome(lambda: fs.unstrip_protocol("bucket/large"))
        proxy.busy_share = 1.0
        found["503 SlowDown"] = outcome(lambda: slow.cat_file("bucket/large"))
        proxy.busy_share, proxy.cut_share, proxy.cut_after = 0.0, 1.0, 3 * MB
        found["body cut after 3 MB"] = outcome(lambda: slow.cat_file("bucket/large"))
        proxy.cut_share = 0.0
        os.environ["AWS_SECRET_ACCESS_KEY"] = "wrong"
        if backend == "s3fs":
            type(fs).clear_instance_cache()
        wrong = open_backend(backend, f"http://localhost:{server.port}")
        found["wrong key"] = outcome(lambda: wrong.cat_file("bucket/large"))
        server.kill()
        found["server is down"] = outcome(lambda: fs.cat_file("bucket/large"))
    finally:
        server.kill()
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.backend:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(trial(arguments.backend, folder)), flush=True)
        os._exit(0)
    results = {}
    for backend in ("s3fs", "obstore"):
        command = [sys.executable, "-m", "benchmarks.obstore_trial", "--backend", backend]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | KEYS, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        results[backend] = json.loads(done.stdout.splitlines()[-1])
    rows = [[name, results["s3fs"][name], results["obstore"][name]] for name in results["s3fs"]]
    print("\n".join(table(["", "s3fs", "obstore"], rows)))


if __name__ == "__main__":
    main()

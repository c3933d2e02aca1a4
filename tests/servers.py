"""Servers that tests start on this machine."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commands import HANG_S


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def moto_server(log: Path) -> Iterator[str]:
    """The endpoint of an S3 server that knows `s3://` as Amazon does."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    with open(log, "w") as file:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            wait_for_answer(f"{endpoint}/moto-api/", server)
            yield endpoint
        finally:
            server.kill()
            server.wait()


def wait_for_answer(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + HANG_S
    while True:
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:
            assert time.monotonic() < deadline and server.poll() is None
            time.sleep(0.05)

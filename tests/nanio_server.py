"""nanio, an S3 server with real signatures: plain files that survive a restart and that a test can damage."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from commands import HANG_S, ROOT

KEYS = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "not-told", "AWS_DEFAULT_REGION": "us-east-1"}


class NanioServer:
    """A server of the buckets that are the folders below `folder`, on a port of its own that stays the same."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        keys = {"NANIO_ACCESS_KEY": KEYS["AWS_ACCESS_KEY_ID"], "NANIO_SECRET_KEY": KEYS["AWS_SECRET_ACCESS_KEY"]}
        command = [sys.executable, "-m", "nanio", "serve", "--host", "127.0.0.1", "--port", str(self.port), "--no-access-log"]
        command += ["--log-level", "error", "--data-dir", str(self.folder)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | keys, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + HANG_S
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5).close()
                return
            except urllib.error.HTTPError:  # unsigned: refused, so it is there
                return
            except OSError:
                assert time.monotonic() < deadline and self._process.poll() is None
                time.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def object(self, key: str) -> Path:
        """The file that holds an object of the bucket `bucket`."""
        return self.folder / "bucket" / key

"""Cache folders watched and measured, for tests."""

import threading
from pathlib import Path

from shards.manifest import Manifest
from train.data.cache import OVERHEAD_BYTES


def room_for_all(manifest: Manifest) -> int:
    return OVERHEAD_BYTES + sum(shard.bytes for shard in manifest.splits["train"].shards)


class Sampler:
    """Looks all the time how large a folder is."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.most, self.samples, self._end = folder, 0, 0, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._end.wait(0.005):
            total = 0
            for path in self.folder.iterdir() if self.folder.exists() else ():
                try:
                    total += path.stat().st_size
                except FileNotFoundError:  # gone since
                    total = 0
                    break
            self.most, self.samples = max(self.most, total), self.samples + 1

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

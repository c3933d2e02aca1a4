"""Checkpoints: OUT/checkpoints/step-NNNNNNNNNN, complete when its `training.json` is there, which is written last.

model.safetensors, config.json   the model as transformers saves it
tokenizer files                  the data set's, so that the folder is complete on its own
optimizer.safetensors            AdamW's moments
training.json                    step, settings, fingerprints, and the size and sha256 of the other files
"""

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch
from safetensors.torch import load, save

from shards import storage
from shards.errors import UserError
from shards.manifest import fingerprint

FOLDER = "checkpoints"
RECORD = "training.json"
MODEL, CONFIG, OPTIMIZER = "model.safetensors", "config.json", "optimizer.safetensors"
VERSION = 1
_NAME = re.compile(r"step-(\d{10})")


class DamagedError(UserError):
    """A checkpoint is not what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: where it is, and its record."""

    url: str
    record: dict[str, Any]

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.record["step"])

    def read(self, name: str) -> bytes:
        """One of its files. Raises DamagedError when it is not what was written."""
        url, told = storage.join(self.url, name), self.record["files"].get(name)
        if told is None:
            raise DamagedError(f"{self.url}: has no {name}")
        try:
            data = storage.read_bytes(url)
        except storage.MissingError as error:
            raise DamagedError(f"{url}: is missing") from error
        if len(data) != told["bytes"] or sha256(data).hexdigest() != told["sha256"]:
            raise DamagedError(f"{url}: has {len(data)} bytes and another sha256 than was written ({told['bytes']} bytes)")
        return data

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """One of its files of tensors, on the CPU."""
        return load(self.read(name))


def find_all(out: str) -> list[str]:
    """URLs of the checkpoints of a run that have a record, newest first."""
    folder = storage.join(out, FOLDER)
    found = {storage.relative(info.url, folder) for info in storage.list_files(folder)}
    names = [name for name, _, file in (path.partition("/") for path in found) if _NAME.fullmatch(name) and file == RECORD]
    return [storage.join(folder, name) for name in sorted(names, reverse=True)]


def remove_unfinished(out: str) -> None:
    """Removes what a killed process left of checkpoints that it did not finish, and nothing else."""
    storage.tidy(storage.join(out, FOLDER))
    folder, finished = storage.join(out, FOLDER), set(find_all(out))
    for info in storage.list_files(folder):
        name = storage.relative(info.url, folder).partition("/")[0]
        if _NAME.fullmatch(name) and storage.join(folder, name) not in finished:
            storage.remove(info.url)
    storage.tidy(folder, empty_folders=True)


def open_checkpoint(url: str) -> Checkpoint:
    """The checkpoint in a folder. Raises DamagedError when its record is not what was written."""
    place = storage.join(url, RECORD)
    try:
        record = json.loads(storage.read_bytes(place))
        rest = {key: value for key, value in record.items() if key != "sha256"}
        if record["sha256"] != fingerprint(rest):
            raise DamagedError(f"{place}: was changed after it was written (its sha256 does not match)")
    except (ValueError, KeyError, TypeError, AttributeError, storage.MissingError) as error:
        raise DamagedError(f"{place}: not a checkpoint's record ({error or type(error).__name__})") from error
    if record["version"] != VERSION:
        raise UserError(f"{place}: version is {record['version']}, this release reads {VERSION}; use its release")
    return Checkpoint(url, record)


def newest(out: str, use: Callable[[Checkpoint], Any], warn: Callable[[str], None]) -> tuple[Checkpoint, Any] | None:
    """The newest checkpoint of a run that `use` can read, and what `use` made of it; None where the run has none.

    A damaged one is named by `warn` and passed over. Raises UserError when all are damaged.
    """
    urls = find_all(out)
    for url in urls:
        try:
            checkpoint = open_checkpoint(url)
            return checkpoint, use(checkpoint)
        except DamagedError as error:
            warn(f"warning: damaged checkpoint passed over: {error}")
    if urls:
        raise UserError(f"{out}: all {len(urls)} checkpoints are damaged; choose another --out to begin anew, or restore one")
    return None


def locate(url: str, use: Callable[[Checkpoint], Any], warn: Callable[[str], None]) -> tuple[Checkpoint, Any]:
    """What `use` makes of a checkpoint's folder, or of the newest good one of a run's folder. Raises UserError."""
    if storage.find(storage.join(url, RECORD)):
        checkpoint = open_checkpoint(url)
        return checkpoint, use(checkpoint)
    found = newest(url, use, warn)
    if found is None:
        raise UserError(f"{url}: is no checkpoint and no run with one (there is no {RECORD}); check the path")
    return found


class Saver:
    """Writes checkpoints in a thread while training goes on, one at a time, and keeps the newest few."""

    def __init__(self, out: str, keep: int) -> None:
        self._out, self._keep = out, keep
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def begin(
        self, step: int, tensors: Mapping[str, Mapping[str, torch.Tensor]], files: Mapping[str, bytes], record: Any
    ) -> None:
        """Copies the tensors (file name -> name -> tensor) and begins to write, after the one before; its error stays told."""
        self._join()
        copies = {
            file: {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in named.items()}
            for file, named in tensors.items()
        }
        self._thread = threading.Thread(target=self._write, args=(step, copies, dict(files), record), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until the one that is being written is there. Raises what failed."""
        self._join()
        self.check()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def check(self) -> None:
        """Raises what failed since it was last asked."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write(self, step: int, tensors: dict[str, dict[str, torch.Tensor]], files: dict[str, bytes], record: Any) -> None:
        try:
            url = storage.join(self._out, FOLDER, f"step-{step:010d}")
            storage.remove(storage.join(url, RECORD))  # of a damaged one: it must not vouch for the new files
            written = {}
            for name, data in _contents(tensors, files):
                storage.publish(storage.join(url, name), data)
                written[name] = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
                del data  # before the next is made
            value = {"version": VERSION, "step": step, **record, "files": written}
            text = json.dumps(value | {"sha256": fingerprint(value)}, indent=1)
            storage.publish(storage.join(url, RECORD), text.encode())
            self._remove_old(url)
        except BaseException as error:  # handed to the training loop, which waits for it
            self._error = error

    def _remove_old(self, newest_url: str) -> None:
        older = [url for url in find_all(self._out) if url < newest_url]
        for url in older[self._keep - 1 :]:
            storage.remove(storage.join(url, RECORD))  # first, so that what is half removed is no checkpoint
            storage.remove(url)


def _contents(tensors: dict[str, dict[str, torch.Tensor]], files: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    yield from files.items()
    for name in list(tensors):
        yield name, save(tensors.pop(name), metadata={"format": "pt"})

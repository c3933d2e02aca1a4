"""Checkpoints: folders OUT/checkpoints/step-NNNNNNNNNN. A checkpoint is complete when `training.json` exists.

model.safetensors, config.json   the model as transformers saves it
tokenizer files                  the data set's, so that the folder is complete
optimizer.safetensors            the optimizer's state
training.json                    written last: step, settings, fingerprints, and size and sha256 of the other files
"""

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from shards import storage
from shards.errors import UserError
from shards.gate.manifest import TOKENIZER_FILES
from shards.manifest import fingerprint
from shards.memory import require_memory
from shards.tokenizer_check import MAX_BYTES

FOLDER = "checkpoints"
RECORD = "training.json"
MODEL, CONFIG, OPTIMIZER = "model.safetensors", "config.json", "optimizer.safetensors"
VERSION = 1
_FOLDER_NAME = re.compile(r"step-(\d{10})")
# A checkpoint may come from a stranger, and an export writes its files: it has these names and no others.
_FILE_NAMES = (MODEL, CONFIG, OPTIMIZER, *TOKENIZER_FILES)
_COPIES = 2  # of a file in memory: its bytes, and its tensors
_SHA256 = re.compile(r"[0-9a-f]{64}")


class DamagedError(UserError):
    """A checkpoint differs from what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its URL and its record."""

    url: str
    record: dict[str, Any]

    @property
    def step(self) -> int:
        """The number of steps done."""
        return int(self.record["step"])

    def read(self, name: str) -> bytes:
        """The bytes of one of its files. Raises DamagedError when they differ from what was written."""
        url, expected = storage.join(self.url, name), self.record["files"].get(name)
        if expected is None:
            raise DamagedError(f"{self.url}: has no {name}")
        info = storage.find(url)
        if info is None:
            raise DamagedError(f"{url}: is missing")
        if info.bytes != expected["bytes"]:
            raise DamagedError(f"{url}: has {info.bytes} bytes, {expected['bytes']} were written")
        require_memory(_COPIES * info.bytes, f"{url}: reading it", "use a machine with more memory")
        data = storage.read_bytes(url)
        if sha256(data).hexdigest() != expected["sha256"]:
            raise DamagedError(f"{url}: has another sha256 than was written")
        return data

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of one of its files, on the CPU. Raises DamagedError."""
        try:
            return load(self.read(name))
        except (SafetensorError, ValueError, KeyError) as error:  # KeyError: a type of numbers that torch does not have
            raise DamagedError(f"{storage.join(self.url, name)}: not a file of tensors ({error})") from error


def find_all(out: str) -> list[str]:
    """URLs of the checkpoints of a run that have a record, newest first."""
    folder = storage.join(out, FOLDER)
    paths = {storage.relative(info.url, folder) for info in storage.list_files(folder)}
    names = [
        name for name, _, file in (path.partition("/") for path in paths) if _FOLDER_NAME.fullmatch(name) and file == RECORD
    ]
    return [storage.join(folder, name) for name in sorted(names, reverse=True)]


def remove_unfinished(out: str) -> None:
    """Removes the files of checkpoints that a killed process did not finish, and nothing else."""
    folder, finished = storage.join(out, FOLDER), set(find_all(out))
    for info in storage.list_files(folder):
        name = storage.relative(info.url, folder).partition("/")[0]
        if _FOLDER_NAME.fullmatch(name) and storage.join(folder, name) not in finished:
            storage.remove(info.url)
    storage.tidy(folder, re.compile(rf"{_FOLDER_NAME.pattern}/[^/]+"), _FOLDER_NAME)


def open_checkpoint(url: str) -> Checkpoint:
    """The checkpoint in a folder. Raises DamagedError when its record differs from what was written.

    Raises UserError when this program never wrote such a record: its sha256 is right, so it is not damage.
    """
    place = storage.join(url, RECORD)
    try:
        record = json.loads(storage.read_small(place))
        rest = {key: value for key, value in record.items() if key != "sha256"}
        if record["sha256"] != fingerprint(rest):
            raise DamagedError(f"{place}: was changed after it was written (its sha256 does not match)")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, storage.MissingError) as error:
        raise DamagedError(f"{place}: not a checkpoint's record ({error or type(error).__name__})") from error
    if type(record.get("version")) is not int or record["version"] != VERSION:  # True is no version
        raise UserError(f"{place}: version is {record.get('version')!r}, this release reads {VERSION}; use its release")
    for fault in _record_faults(record):
        raise UserError(f"{place}: {fault}; it is not a checkpoint of this program, do not use it")
    return Checkpoint(url, record)


def _record_faults(record: Mapping[str, Any]) -> Iterator[str]:
    """What makes a record unusable: everything that reads one relies on these fields."""
    for name in ("step", "position"):
        value = record.get(name)
        if type(value) is not int or not 0 <= value < 2**60:
            yield f"{name} is {value!r}, must be a number from 0 to 2^60"
    for name in ("data_fingerprint", "tokenizer_fingerprint"):
        if not isinstance(record.get(name), str):
            yield f"{name} is {record.get(name)!r}, must be a text"
    for name in ("order", "model", "settings", "files"):
        if not isinstance(record.get(name), dict):
            yield f"{name} is {record.get(name)!r}, must be an object"
            return
    yield from _phase_faults(record)
    if not isinstance(record.get("mask_prob"), int | float | None):
        yield f"mask_prob is {record.get('mask_prob')!r}, must be a number or null"
    for name, info in record["files"].items():
        if name not in _FILE_NAMES:
            yield f"files has {name[:100]!r}, which is not a file name of a checkpoint"
        elif not isinstance(info, dict) or type(info.get("bytes")) is not int or not _is_sha256(info.get("sha256")):
            yield f"files.{name} is {info!r}, must have bytes and sha256"
        elif name not in (MODEL, OPTIMIZER) and info["bytes"] > MAX_BYTES:
            yield f"files.{name} has {info['bytes']} bytes, at most {MAX_BYTES} are allowed"
    yield from (f"files has no {name}" for name in (MODEL, CONFIG, OPTIMIZER) if name not in record["files"])


def _phase_faults(record: Mapping[str, Any]) -> Iterator[str]:
    """What makes the part about phases unusable. A release before there were phases did not write it."""
    if "phase" not in record:
        return
    phase, phases = record["phase"], record.get("phases")
    if not _has_numbers(phase, {"number", "first_step", "first_position"}) or phase["number"] < 1:
        yield f"phase is {phase!r}, must have number, first_step and first_position"
    for name in ("served", "served_before_phase"):
        served = record.get(name)
        if not isinstance(served, dict) or not all(_has_numbers(value, {"seed", "lanes", "rows"}) for value in served.values()):
            yield f"{name} is {served!r}, must have seed, lanes and rows of each data set"
    parts = phases if isinstance(phases, list) and phases else [None]
    if not all(isinstance(part, dict) and isinstance(part.get(name), dict) for part in parts for name in ("order", "settings")):
        yield "phases must be a list of objects with order and settings"


def _has_numbers(value: object, names: set[str]) -> bool:
    """Whether a value is an object with these numbers and nothing else."""
    return (
        isinstance(value, dict)
        and value.keys() == names
        and all(type(number) is int and 0 <= number < 2**63 for number in value.values())
    )


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and bool(_SHA256.fullmatch(value))


def copy_tensors(targets: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor], place: str) -> None:
    """Overwrites the targets with the values of the same names. Raises UserError when one is missing or has another shape."""
    for name, target in targets.items():
        value = values.get(name)
        if value is None or value.shape != target.shape:
            shape = "missing" if value is None else f"of shape {list(value.shape)}"
            raise UserError(f"{place}: {name} is {shape}, the model needs {list(target.shape)}; it belongs to another model")
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(values[name])


def newest(out: str, use: Callable[[Checkpoint], Any], warn: Callable[[str], None]) -> tuple[Checkpoint, Any] | None:
    """The newest checkpoint of a run that `use` can read, and the result of `use`; None when the run has no checkpoint.

    A damaged checkpoint is reported with `warn` and skipped. Raises UserError when all are damaged.
    """
    urls = find_all(out)
    for url in urls:
        try:
            checkpoint = open_checkpoint(url)
            return checkpoint, use(checkpoint)
        except DamagedError as error:
            warn(f"warning: damaged checkpoint skipped: {error}")
    if urls:
        raise UserError(f"{out}: all {len(urls)} checkpoints are damaged; choose another --out to start again, or restore one")
    return None


def locate(url: str, use: Callable[[Checkpoint], Any], warn: Callable[[str], None]) -> tuple[Checkpoint, Any]:
    """A checkpoint by its own folder or the newest good one of a run's folder, and the result of `use`. Raises UserError."""
    if storage.find(storage.join(url, RECORD)):
        checkpoint = open_checkpoint(url)
        return checkpoint, use(checkpoint)
    result = newest(url, use, warn)
    if result is None:
        raise UserError(f"{url}: is no checkpoint and no run with one (there is no {RECORD}); check the path")
    return result


class Saver:
    """Writes checkpoints in a thread while training continues, one at a time, and keeps the newest few."""

    def __init__(self, out: str, keep: int) -> None:
        self._out, self._keep = out, keep
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def begin(
        self, step: int, tensors: Mapping[str, Mapping[str, torch.Tensor]], files: Mapping[str, bytes], record: Any
    ) -> None:
        """Copies the tensors (file -> name -> tensor) and starts to write them, once the previous checkpoint is written.

        An error of the previous one is kept for `check` and `wait`.
        """
        self._join()
        snapshot = Snapshot(tensors)
        self._thread = threading.Thread(target=self._write, args=(step, snapshot, dict(files), record), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Waits until everything is written. Raises the error of a checkpoint that failed."""
        self._join()
        self.check()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def check(self) -> None:
        """Raises the error of a checkpoint that failed since the last call."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write(self, step: int, snapshot: "Snapshot", files: dict[str, bytes], record: Any) -> None:
        try:
            url = storage.join(self._out, FOLDER, f"step-{step:010d}")
            # Where a damaged checkpoint of this step exists, its record must not vouch for the new files.
            storage.remove(storage.join(url, RECORD))
            written = {}
            for name, data in _contents(snapshot, files):
                storage.publish(storage.join(url, name), data)
                written[name] = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
                del data  # memory: the next file is as large
            value = {"version": VERSION, "step": step, **record, "files": written}
            text = json.dumps(value | {"sha256": fingerprint(value)}, indent=1)
            storage.publish(storage.join(url, RECORD), text.encode())
            # After a power cut, too, the new checkpoint must be there before an old one goes.
            storage.flush_names(url, storage.join(self._out, FOLDER))
            self._remove_old(url)
        except BaseException as error:  # raised in the training loop by `check` or `wait`
            self._error = error

    def _remove_old(self, newest_url: str) -> None:
        older = [url for url in find_all(self._out) if url < newest_url]
        for url in older[self._keep - 1 :]:
            storage.remove(storage.join(url, RECORD))  # first: a folder that is half removed must not be a checkpoint
            storage.remove(url)


def _contents(snapshot: "Snapshot", files: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    yield from files.items()
    for name in snapshot.files:
        yield name, save(snapshot.take(name), metadata={"format": "pt"})


class Snapshot:
    """Copies of tensors (file -> name -> tensor) as they are now.

    On a GPU they are copied on the device, in a few milliseconds, and `take` moves them to the CPU from a thread, beside the
    steps that continue. Where the device has no memory for that, they are moved at once.
    """

    def __init__(self, tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        everything = [tensor for named in tensors.values() for tensor in named.values()]
        self._device = next((tensor.device for tensor in everything if tensor.device.type == "cuda"), None)
        self._is_copied = None
        if self._device is None:
            self._copies = _copied(tensors, lambda tensor: tensor.clone())
        elif _has_memory(everything, self._device):
            self._copies = _copied(tensors, lambda tensor: tensor.clone())
            self._is_copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._is_copied.record(torch.cuda.current_stream(self._device))
        else:
            self._copies = _copied(tensors, lambda tensor: tensor.to("cpu", copy=True))

    @property
    def files(self) -> list[str]:
        """The files that were not taken yet."""
        return list(self._copies)

    def take(self, file: str) -> dict[str, torch.Tensor]:
        """The tensors of a file on the CPU, once: the snapshot forgets them."""
        tensors = self._copies.pop(file)
        if self._is_copied is None:
            return {name: tensor.contiguous() for name, tensor in tensors.items()}
        # On a stream of its own: on the computing stream the moves would wait for steps, and steps for the moves.
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            stream.wait_event(self._is_copied)
            return {name: tensor.to("cpu").contiguous() for name, tensor in tensors.items()}  # each move is waited for


def _has_memory(tensors: Sequence[torch.Tensor], device: torch.device) -> bool:
    """Whether copies fit beside what training needs: that is already reserved, and returns with the next step."""
    num_free, _ = torch.cuda.mem_get_info(device)
    return num_free > 1.5 * sum(tensor.nbytes for tensor in tensors)  # not to the last byte: memory gets fragmented


def _copied(
    tensors: Mapping[str, Mapping[str, torch.Tensor]], copy: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, dict[str, torch.Tensor]]:
    return {file: {name: copy(tensor.detach()) for name, tensor in named.items()} for file, named in tensors.items()}

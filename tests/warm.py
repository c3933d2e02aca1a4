"""Processes that start in milliseconds: forks of one that has imported the packages already.

`start("prep", ...)` is `python -m prep ...` in a process of its own, which signals can stop and kill, without the seconds
that numba, torch and transformers take to import. Libraries that read the environment while they are imported (the hub's
client) have read that of the first start.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
_NUMBER = struct.Struct("<q")
_MAX_REQUEST_BYTES = 2**20


class WarmProcess:
    """A process as `subprocess.Popen` shows one."""

    def __init__(self, pid: int, status: int, stdout: IO[str] | None, stderr: IO[str] | None) -> None:
        self.pid, self._status, self.stdout, self.stderr = pid, status, stdout, stderr
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._read_status(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._read_status(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("a warm process", timeout or 0)
        return code

    def _read_status(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            data = os.read(self._status, _NUMBER.size)
            assert data, "the warm server has ended"
            self.returncode = os.waitstatus_to_exitcode(_NUMBER.unpack(data)[0])
            os.close(self._status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        texts = ["", ""]
        readers = [
            threading.Thread(target=_read_all, args=(stream, texts, index))
            for index, stream in enumerate((self.stdout, self.stderr))
            if stream
        ]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        return texts[0], texts[1]


def _read_all(stream: IO[str], texts: list[str], index: int) -> None:
    with stream:
        texts[index] = stream.read()


def start(
    module: str, *arguments: object, cwd: Path = ROOT, env: Mapping[str, str] | None = None, capture: bool = True
) -> WarmProcess:
    """`python -m module ...`, with pipes for its output, or with that of this process."""
    request = {"module": module, "arguments": list(map(str, arguments)), "cwd": str(cwd), "env": dict(env or os.environ)}
    status, status_end = os.pipe()
    pipes = [os.pipe() for _ in range(2)] if capture else []
    ends = [end for _, end in pipes] or [1, 2]
    socket.send_fds(_server(), [json.dumps(request).encode()], [status_end, *ends])
    os.close(status_end)
    for _, end in pipes:
        os.close(end)
    pid = _NUMBER.unpack(os.read(status, _NUMBER.size))[0]
    streams = [open(pipe, encoding="utf8", errors="replace") for pipe, _ in pipes] or [None, None]  # noqa: SIM115
    return WarmProcess(pid, status, *streams)


@cache
def _server() -> socket.socket:
    """The connection to the server of this process, which ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MAX_REQUEST_BYTES)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, str(theirs.fileno())]
    server = subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()

    def end() -> None:
        ours.close()
        server.wait()

    atexit.register(end)
    return ours


def _serve(connection: socket.socket) -> dict[str, object] | None:
    """Forks a process for each request, until the connection is closed: returns the request there, and None at the end."""
    selector = selectors.DefaultSelector()
    selector.register(connection, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is not connection:
                pid, status = key.data
                selector.unregister(key.fileobj)
                os.close(key.fd)
                with suppress(BrokenPipeError):
                    os.write(status, _NUMBER.pack(os.waitpid(pid, 0)[1]))
                os.close(status)
                continue
            message, descriptors, _, _ = socket.recv_fds(connection, _MAX_REQUEST_BYTES, 3)
            if not message:
                return None
            status, *ends = descriptors
            pid = os.fork()
            if not pid:
                selector.close()
                connection.close()
                os.close(status)
                for number, end in enumerate(ends, 1):
                    os.dup2(end, number)
                os.closerange(3, 256)
                request: dict[str, object] = json.loads(message)
                return request
            os.write(status, _NUMBER.pack(pid))
            for end in ends:
                os.close(end)
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, status))


def _preload() -> None:
    for package in ("shards", "prep", "train"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name != "__main__.py":
                importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    _preload()
    gc.freeze()  # a collection in a fork would copy all pages
    request = _serve(connection)
    if request is None:
        return
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[0:0] = [request["cwd"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = [request["module"], *request["arguments"]]
    warnings.filterwarnings("ignore", message=".*found in sys.modules after import", module="runpy")
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

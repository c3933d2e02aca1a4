"""A TCP proxy before a server on this machine, with faults that a test sets while it runs."""

import random
import select
import socket
import threading
import time
from contextlib import suppress

_BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_HEAD = b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"


class FaultyProxy:
    """Draws for each request whether it is cut or refused; `seed` makes the draws the same again.

    `latency_s` is waited before each request. `cut_share` of them lose their connection after `cut_after` bytes, of the
    request and its answer together; `busy_share` are answered with 503. The counts say what was done.
    """

    def __init__(self, port: int, seed: int = 0) -> None:
        self.latency_s = self.cut_share = self.busy_share = 0.0
        self.cut_after = 0
        self.requests = self.cuts = self.refusals = 0
        self._upstream, self._draws = port, random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._upstream)) as server:
            asking, left = False, -1  # bytes until the cut
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    if source is client and not asking:  # a request begins
                        self.requests += 1
                        time.sleep(self.latency_s)
                        if self._draws.random() < self.busy_share:
                            self._refuse(client, data)
                            return
                        left = self.cut_after if self._draws.random() < self.cut_share else -1
                    asking = source is client
                    if 0 <= left < len(data):
                        self.cuts += 1
                        (server if source is client else client).sendall(data[:left])
                        return
                    left -= len(data) if left >= 0 else 0
                    (server if source is client else client).sendall(data)

    def _refuse(self, client: socket.socket, request: bytes) -> None:
        self.refusals += 1
        client.sendall(_HEAD % len(_BUSY) + (b"" if request.startswith(b"HEAD") else _BUSY))
        client.shutdown(socket.SHUT_WR)
        client.settimeout(1)
        while client.recv(1 << 16):  # the rest of the request, so that the answer is not lost with it
            pass

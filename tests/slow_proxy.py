"""An HTTP proxy before a storage server: it delays, answers 503, cuts answers short and stops in the midst of them."""

import http.client
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from commands import HANG_S


@dataclass(frozen=True)
class Answer:
    """A request and what was sent of the answer's body; `failed` where that was a fault of the proxy's own."""

    method: str
    path: str
    sent: int
    failed: bool


class SlowProxy:
    """Passes requests on to `upstream`, each after a delay; every `fail_every`-th fails, in turn by a 503 and a cut body.

    Answers that are `held` stop half-way until the proxy is closed.
    """

    def __init__(self, upstream: str, delay_s: float = 0.0, fail_every: int = 0) -> None:
        self.upstream, self.delay_s, self.fail_every = urlsplit(upstream).netloc, delay_s, fail_every
        self.answers: list[Answer] = []
        self.held: Callable[[Answer], bool] = lambda answer: False
        self.stopped = threading.Semaphore(0)  # counts the answers that stopped half-way
        self._go_on = threading.Event()
        self._seen, self._lock = 0, threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._go_on.set()
        self._server.shutdown()
        self._server.server_close()

    def whole(self, size: int) -> list[str]:
        """The paths of answers that sent a file of some size, once for each."""
        return [answer.path for answer in self.answers if answer.method == "GET" and answer.sent == size]

    def fault(self) -> str:
        """What is to go wrong with the next request: nothing, "refuse" or "cut"."""
        with self._lock:
            self._seen += 1
            if not self.fail_every or self._seen % self.fail_every:
                return ""
            return "refuse" if self._seen // self.fail_every % 2 else "cut"

    def _handler(proxy: "SlowProxy") -> type[BaseHTTPRequestHandler]:  # noqa: N805  # `self` is the handler's below
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                time.sleep(proxy.delay_s)
                fault = proxy.fault()
                if fault == "refuse":
                    status, headers, content = 503, [("Content-Length", "0")], b""
                else:
                    status, headers, content = self.ask(body)
                self.send_response_only(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.end_headers()
                half = len(content) // 2
                self.wfile.write(content[:half])
                if proxy.held(Answer(self.command, self.path, len(content), bool(fault))):
                    proxy.stopped.release()
                    proxy._go_on.wait()
                if fault == "cut":
                    self.close_connection = True
                else:
                    self.wfile.write(content[half:])
                sent = half if fault == "cut" else len(content)
                proxy.answers.append(Answer(self.command, self.path, sent, bool(fault)))

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815  # names of http.server

            def ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
                connection = http.client.HTTPConnection(proxy.upstream, timeout=HANG_S)
                connection.request(self.command, self.path, body, dict(self.headers.items()))
                with connection.getresponse() as response:
                    content = response.read()
                    hop = ("connection", "transfer-encoding", "content-length")
                    headers = [(name, value) for name, value in response.getheaders() if name.lower() not in hop]
                    length = response.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
                    return response.status, [*headers, ("Content-Length", length or "0")], content

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:  # the client was killed
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

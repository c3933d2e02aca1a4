"""A stand-in for the hub: the few calls of its API that reading a data set makes, over HTTP, from a folder.

The real hub cannot be reached by tests; the client, `huggingface_hub`, is the real one.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class _Handler(BaseHTTPRequestHandler):
    """Answers for the folder `folder` as the data set `name`, which a subclass has."""

    folder: Path
    name: str
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == f"/api/datasets/{self.name}" or path == f"/api/datasets/{self.name}/revision/main":
            self._json({"id": self.name, "sha": "0" * 40, "siblings": []})
        elif path.startswith(f"/api/datasets/{self.name}/tree/main"):
            below = path.removeprefix(f"/api/datasets/{self.name}/tree/main").strip("/")
            recursive = "true" in parse_qs(urlsplit(self.path).query).get("recursive", [""])[0].lower()
            self._json([_entry(self.folder, file) for file in _listed(self.folder / below, recursive)])
        else:
            self._file(path)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
        paths = json.loads(sent)["paths"] if sent.startswith("{") else parse_qs(sent)["paths"]
        found = (self.folder / path for path in ([paths] if isinstance(paths, str) else paths))
        self._json([_entry(self.folder, file) for file in found if file.exists()])

    def _file(self, path: str) -> None:
        file = self.folder / path.removeprefix(f"/datasets/{self.name}/resolve/main/")
        if not path.startswith(f"/datasets/{self.name}/resolve/main/") or not file.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data, status = file.read_bytes(), 200
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            data, status = data[int(first) : int(last) + 1 if last else None], 206
        self._send(status, data, {"ETag": f'"{_digest(file)}"', "X-Repo-Commit": "0" * 40, "Accept-Ranges": "bytes"})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for header, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(header, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def serve(folder: Path, name: str) -> Iterator[str]:
    """Serves the folder as the data set `name` (user/set); gives the endpoint."""
    handler = type("Handler", (_Handler,), {"folder": folder, "name": name})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _listed(folder: Path, recursive: bool) -> list[Path]:
    return sorted(folder.rglob("*") if recursive else folder.glob("*"))


def _digest(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


def _entry(root: Path, file: Path) -> dict[str, Any]:
    path = str(file.relative_to(root))
    if file.is_dir():
        return {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}
    return {"type": "file", "oid": _digest(file), "size": file.stat().st_size, "path": path}

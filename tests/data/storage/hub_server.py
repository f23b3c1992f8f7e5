"""A web server that answers like the hub's API, for the real `huggingface_hub.HfFileSystem`, from a local folder.

The folder has OWNER/NAME/FILE. What was asked for is in ``requests``.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_API = re.compile(r"/api/datasets/([^/]+/[^/]+)(?:/(?:revision|tree)/[^/]+)?(/.*)?")
_FILE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.*)")


class HubServer(http.server.ThreadingHTTPServer):
    def __init__(self, folder: Path, gated: str):
        self.folder, self.gated, self.requests = folder, gated, list[tuple[str, str]]()
        """(path, range) of each request."""
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None: ...

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((path, self.headers.get("Range", "")))
        if match := _API.fullmatch(path):
            self._answer_api(match[1], match[2], is_tree="/tree/" in path)
        elif match := _FILE.fullmatch(path):
            self._answer_file(match[1], match[2])
        else:
            self._send(404)

    def _answer_api(self, name: str, inside: str | None, *, is_tree: bool) -> None:
        base = self.server.folder / name
        place = base / (inside or "").lstrip("/")
        if not base.is_dir():
            self._send(401, error="RepoNotFound")
        elif not is_tree:
            self._send_json({"id": name, "sha": "a" * 40, "siblings": [], "private": False, "tags": []})
        elif not place.is_dir():
            self._send(404, error="EntryNotFound")
        else:
            self._send_json([_entry(path, base) for path in sorted(place.iterdir())])

    def _answer_file(self, name: str, inside: str) -> None:
        path = self.server.folder / name / inside
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if name == self.server.gated:
            self._send(401, error="GatedRepo")
        elif not path.is_file():
            self._send(404, error="EntryNotFound")
        elif wanted:
            self._send(206, path.read_bytes()[int(wanted[1]) : int(wanted[2]) + 1])
        else:
            self._send(200, path.read_bytes())

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode())

    def _send(self, status: int, data: bytes = b"", error: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        self.wfile.write(data)


def _entry(path: Path, base: Path) -> dict[str, Any]:
    name = path.relative_to(base).as_posix()
    if path.is_dir():
        return {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
    blob = hashlib.sha1(path.read_bytes()).hexdigest()
    return {"type": "file", "oid": blob, "size": path.stat().st_size, "path": name}


@contextmanager
def serving(folder: Path, gated: str = "") -> Iterator[HubServer]:
    """A server in a thread. ``gated``: a data set whose files need a token, while its list does not."""
    server = HubServer(folder, gated)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""A hub on this machine: the part of its HTTP API that huggingface_hub uploads and downloads a model with.

It keeps repositories in memory, as commits of whole trees. Point a command at it with `Hub.environment`. What the real hub
decides, a test sets here: which tokens and owners there are, which files are large, and which request fails.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_stand_in"
OWNER = "me"
REPO = r"/api/(?P<kind>model|dataset|space)s/(?P<name>[^/]+/[^/]+)"


@dataclass
class Commit:
    files: dict[str, bytes]
    message: str

    @property
    def sha(self) -> str:
        listing = [[path, hashlib.sha256(data).hexdigest()] for path, data in sorted(self.files.items())]
        return hashlib.sha1(json.dumps([self.message, listing]).encode()).hexdigest()


@dataclass
class Repository:
    private: bool
    branches: dict[str, list[Commit]] = field(default_factory=lambda: {"main": [Commit({}, "initial commit")]})

    def commit(self, revision: str) -> Commit | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        return next((c for commits in self.branches.values() for c in commits if c.sha == revision), None)


class Answer(Exception):
    """Ends a request with a status that is not 200."""

    def __init__(self, status: int, message: str, code: str = "", fields: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.code, self.fields = status, code, fields or {}


class Hub:
    """The repositories, and what the server does besides answering."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        """By (kind, OWNER/NAME); kind: model, dataset or space."""
        self.large: dict[str, bytes] = {}
        """What was uploaded by LFS, by SHA-256."""
        self.requests: list[str] = []
        self.large_files = re.compile(r"\.safetensors$")
        """Files that the server wants by LFS; the others are sent with the commit."""
        self.failures: dict[str, int] = {}
        """A pattern of a request (METHOD PATH) -> the status to answer it with."""
        self.hanging: re.Pattern[str] | None = None
        """A request that is never answered, until the server ends."""
        self.reached = threading.Event()
        self.released = threading.Event()
        self.address = ""

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        return self.repositories["model", name].branches[revision][-1].files

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """The variables of a process that is to use this hub, with a cache of its own in ``home``."""
        values = {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
        return values | ({"HF_TOKEN": token} if token else {})

    @contextmanager
    def serve(self) -> Iterator[Hub]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": self}))
        self.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            self.released.set()
            server.shutdown()
            thread.join()
            server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(size) if size else self._chunks()
        self.path_only, self.query = unquote(urlsplit(self.path).path), parse_qs(urlsplit(self.path).query)
        request = f"{self.command} {self.path_only}"
        self.hub.requests.append(request)
        if self.hub.hanging is not None and self.hub.hanging.search(request):
            self.hub.reached.set()
            self.hub.released.wait(60)
        try:
            status = next((s for pattern, s in self.hub.failures.items() if re.search(pattern, request)), None)
            if status is not None:
                raise Answer(status, "so the test wants it")
            self._send(200, *self._route(request))
        except Answer as answer:
            headers = {"X-Error-Code": answer.code, "X-Error-Message": str(answer)} if answer.code else {}
            self._send(answer.status, json.dumps({"error": str(answer), **answer.fields}).encode(), headers)

    def _chunks(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _route(self, request: str) -> tuple[bytes, dict[str, str]]:
        for pattern, method in ROUTES.items():
            if match := re.fullmatch(pattern, request):
                if method is not Handler._upload_large:  # its address is the permission
                    self._check_token()
                values = method(self, **match.groupdict())
                return values if isinstance(values, tuple) else (json.dumps(values).encode(), {})
        raise Answer(404, f"the stand-in has no {request}")

    def _check_token(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Answer(401, "Invalid credentials in Authorization header")

    def _repository(self, kind: str, name: str) -> Repository:
        if (kind, name) not in self.hub.repositories:
            raise Answer(404, "Repository not found", "RepoNotFound")
        return self.hub.repositories[kind, name]

    def _commit_of(self, kind: str, name: str, revision: str | None) -> Commit:
        commit = self._repository(kind, name).commit(revision or "main")
        if commit is None:
            raise Answer(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def _who(self) -> Any:
        return {"name": OWNER, "type": "user", "orgs": []}

    def _create(self) -> Any:
        values = json.loads(self.body)
        if values["organization"] != OWNER:
            raise Answer(403, "You don't have the rights to create a model under this namespace")
        name, kind = f"{OWNER}/{values['name']}", values.get("type", "model")
        private = values.get("visibility") == "private" or bool(values.get("private"))
        url = {"url": f"{self.hub.address}/{name}"}
        if any(name == other for _, other in self.hub.repositories):
            raise Answer(409, "You already created this repo", fields=url)
        self.hub.repositories[kind, name] = Repository(private)
        return url

    def _branch(self, kind: str, name: str, revision: str) -> Any:
        branches = self._repository(kind, name).branches
        if revision in branches:
            raise Answer(409, "Reference already exists")
        branches[revision] = list(branches["main"])
        return {}

    def _info(self, kind: str, name: str, revision: str | None = None) -> Any:
        commit = self._commit_of(kind, name, revision)
        private = self._repository(kind, name).private
        siblings = [{"rfilename": path} for path in commit.files]
        return {"id": name, "modelId": name, "sha": commit.sha, "private": private, "siblings": siblings, "tags": []}

    def _tree(self, kind: str, name: str, revision: str) -> Any:
        files = self._commit_of(kind, name, revision).files
        return [{"type": "file", "path": path, "size": len(data), "oid": blob_id(data)} for path, data in files.items()]

    def _preupload(self, kind: str, name: str, revision: str) -> Any:
        old_files = self._commit_of(kind, name, revision).files
        modes = []
        for entry in json.loads(self.body)["files"]:
            old = old_files.get(entry["path"])
            is_large = self.hub.large_files.search(entry["path"]) is not None
            mode = {"path": entry["path"], "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}
            modes.append(mode if old is None or is_large else mode | {"oid": blob_id(old)})
        return {"files": modes}

    def _validate(self) -> Any:
        return {"errors": [], "warnings": []}

    def _batch(self, name: str) -> Any:
        self._repository("model", name)
        objects = []
        for entry in json.loads(self.body)["objects"]:
            href = f"{self.hub.address}/large/{entry['oid']}"
            is_here = entry["oid"] in self.hub.large
            objects.append(entry if is_here else entry | {"actions": {"upload": {"href": href}}})
        return {"transfer": "basic", "objects": objects}

    def _upload_large(self, digest: str) -> Any:
        if hashlib.sha256(self.body).hexdigest() != digest:
            raise Answer(400, "the content is not that of the announced digest")
        self.hub.large[digest] = self.body
        return {}

    def _new_commit(self, kind: str, name: str, revision: str) -> Any:
        files, message = dict(self._commit_of(kind, name, revision).files), ""
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise Answer(400, f"unknown operation {entry['key']}")
        commit = Commit(files, message)
        self._repository(kind, name).branches[revision].append(commit)
        return {"success": True, "commitOid": commit.sha, "commitUrl": f"{self.hub.address}/{name}/commit/{commit.sha}"}

    def _file(self, name: str, revision: str, path: str) -> tuple[bytes, dict[str, str]]:
        commit = self._commit_of("model", name, revision)
        if path not in commit.files:
            raise Answer(404, "Entry not found", "EntryNotFound")
        data = commit.files[path]
        return data, {"X-Repo-Commit": commit.sha, "ETag": f'"{blob_id(data)}"'}


def blob_id(data: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


ROUTES: dict[str, Any] = {
    "GET /api/whoami-v2": Handler._who,
    "POST /api/repos/create": Handler._create,
    "POST /api/validate-yaml": Handler._validate,
    rf"POST {REPO}/branch/(?P<revision>.+)": Handler._branch,
    rf"POST {REPO}/preupload/(?P<revision>.+)": Handler._preupload,
    rf"POST {REPO}/commit/(?P<revision>.+)": Handler._new_commit,
    rf"GET {REPO}/tree/(?P<revision>.+)": Handler._tree,
    rf"GET {REPO}/revision/(?P<revision>.+)": Handler._info,
    f"GET {REPO}": Handler._info,
    r"POST /(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch": Handler._batch,
    "PUT /large/(?P<digest>[0-9a-f]{64})": Handler._upload_large,
    r"(HEAD|GET) /(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)": Handler._file,
}
"""Pattern of METHOD PATH -> what answers it. Xet is not offered: there is no xet-write-token."""

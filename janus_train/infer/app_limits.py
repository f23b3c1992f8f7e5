"""What the app takes from a browser beside the limits of every request (infer/limits.py), and what holds it.

A request goes through three gates: `RequestLimits` sees it before anything of it is read, gradio before it waits in the
queue, and the functions of the page (infer/app_page.py) before the model is asked.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus_train.infer.limits import MAX_IMAGES, MAX_PIXELS, MAX_PROMPT_CHARS

MAX_WAITING = 16
"""Requests that wait while others are worked on; with more the queue is full."""
MAX_UPLOADS_AT_ONCE = 50
"""All uploads and drawings that are kept together, in files of the largest size that is taken."""
MAX_KEPT_FILES = 5_000
KEEP_S, CLEAN_EVERY_S = 3600, 300
"""How long an upload or a drawing is kept, and how often the old ones are looked for."""
_MAX_BODY_BYTES = 1 << 20
"""Of a request that uploads nothing: the prompt, some numbers and the names of files."""
_MULTIPART_BYTES = 1 << 16
"""What stands around the files of an upload."""
_POSTS = ("queue/join", "upload", "cancel", "reset")
"""All that the page sends; gradio's server takes much more, some of which leaves files or avoids the queue."""


@dataclass(frozen=True)
class AppLimits:
    """The limits that a user of the command may set."""

    time_limit_s: int = 300
    """Of one request, from the moment when it is its turn."""
    max_upload_mb: int = 20
    """Of one file."""

    @property
    def max_upload_bytes(self) -> int:
        return self.max_upload_mb << 20  # as gradio counts when it says so

    def __str__(self) -> str:
        return (
            f"At most {MAX_IMAGES} images of {self.max_upload_mb} MB and {MAX_PIXELS // 10**6} megapixels each, prompts of "
            f"{MAX_PROMPT_CHARS:,} characters, and {self.time_limit_s} s a request."
        )


@contextmanager
def upload_folder() -> Iterator[Path]:
    """A folder of this process alone that gradio keeps uploads and drawings in; it goes at the block's end."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    folder = Path(tempfile.mkdtemp(prefix="janus-train-app-")).resolve()
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # gradio has no other way to be told
    try:
        yield folder
    finally:
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before
        shutil.rmtree(folder, ignore_errors=True)


class RequestLimits:
    """ASGI middleware that refuses requests by their address and their announced length, each with one line that the page shows."""

    def __init__(self, app: Any, folder: Path, limits: AppLimits):
        self.app, self.folder, self.limits = app, folder, limits

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self.app(scope, receive, send)
            return
        status, line = refusal
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps({"detail": line}).encode()})

    def _refusal(self, scope: Any) -> tuple[int, str] | None:
        """Status and reason, or None for a request that goes on."""
        path = scope["path"].rstrip("/")
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            if "/proxy=" in path or "://" in path or path.endswith("process_recording"):
                return 403, "nothing is fetched from an address"
            return None
        action = path.rpartition("/gradio_api/")[2]
        if scope["method"] != "POST" or action not in _POSTS:
            return 403, "the page's own requests are all that is taken"
        length = dict(scope["headers"]).get(b"content-length", b"").decode("latin-1")
        if not length.isdecimal():  # what follows is as long as it says: the server sees to that
            return 411, "a request must say how long it is"
        if action != "upload":
            if int(length) > _MAX_BODY_BYTES:
                return 413, f"the request is too long. {self.limits}"
            return None
        if int(length) > MAX_IMAGES * self.limits.max_upload_bytes + _MULTIPART_BYTES:
            return 413, f"the upload is too large. {self.limits}"
        files, size = remove_old_files(self.folder, KEEP_S)
        if files >= MAX_KEPT_FILES or size + int(length) > MAX_UPLOADS_AT_ONCE * self.limits.max_upload_bytes:
            return 507, f"there are too many uploads at the moment: they are kept for {KEEP_S // 60} minutes"
        return None


def remove_old_files(folder: Path, age_s: float) -> tuple[int, int]:
    """Remove what is older than ``age_s``, uploads that broke off too; the number and the bytes of the files that stay."""
    number = size = 0
    oldest = time.time() - age_s
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
            if path.is_dir():
                continue
            if status.st_mtime < oldest:
                path.unlink()
                continue
        except FileNotFoundError:  # gradio removed it first
            continue
        number, size = number + 1, size + status.st_size
    return number, size

"""A file system that imitates the hub from a local folder, counts what is read of it, and fails on request.

It is registered under the hub's own scheme, and raises what `huggingface_hub.HfFileSystem` raises.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NoReturn

import pytest
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from janus_train.data.storage import disk_cache, remote

BLOCK = 4096
"""Bytes of a block of the cache on disk, so that a test's small files have several."""


def response(status: int) -> Any:
    """What the errors of the hub read of a response."""
    return SimpleNamespace(status_code=status, headers={}, request=None)


class FakeHub(AbstractFileSystem):
    """``hf://datasets/OWNER/NAME/...`` is ``root/OWNER/NAME/...``; a revision is a part of NAME."""

    protocol = "hf"
    cachable = False
    root: ClassVar[Path]
    reads: ClassVar[list[tuple[str, int, int]]]
    """(path in the data set, start, end) of every range that was fetched."""
    gated: ClassVar[set[str]]
    """Data sets whose files need a token, while their lists do not."""
    failures: ClassVar[Counter[str]]
    """Path in the data set -> how many of the next requests fail."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__()

    def _local(self, path: str) -> Path:
        kind, owner, name, *inside = self._strip_protocol(path).split("/")
        assert kind == "datasets"
        if not (self.root / owner / name).is_dir():
            self._no_repository(path)
        local = self.root.joinpath(owner, name, *inside)
        if not local.exists():
            raise FileNotFoundError(path)
        return local

    @staticmethod
    def _no_repository(path: str) -> NoReturn:
        error = RepositoryNotFoundError("401 Client Error", response=response(401))
        raise FileNotFoundError(f"{path} (repository not found)") from error

    def _entry(self, path: str, local: Path) -> dict[str, Any]:
        if local.is_dir():
            return {"name": path, "size": 0, "type": "directory", "last_commit": None}
        blob = hashlib.sha1(local.read_bytes()).hexdigest()
        return {"name": path, "size": local.stat().st_size, "type": "file", "blob_id": blob, "last_commit": None}

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        return self._entry(path, self._local(path))

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        path = self._strip_protocol(path)
        local = self._local(path)
        if local.is_file():
            return [self._entry(path, local)] if detail else [path]
        entries = [self._entry(f"{path}/{child.name}", child) for child in sorted(local.iterdir())]
        return entries if detail else [entry["name"] for entry in entries]

    def glob(self, path: str, maxdepth: int | None = None, **options: Any) -> Any:
        self._local("/".join(self._strip_protocol(path).split("/")[:3]))
        return super().glob(path, maxdepth=maxdepth, **options)

    def exists(self, path: str, **options: Any) -> bool:
        try:
            self.info(path)
        except OSError:
            return False
        return True

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return _FakeFile(self, path, mode, size=self.info(path)["size"], **options)


class _FakeFile(AbstractBufferedFile):
    fs: FakeHub

    def _fetch_range(self, start: int, end: int) -> bytes:
        _, owner, name, *inside = self.path.split("/")
        path = "/".join(inside)
        FakeHub.reads.append((path, start, end))
        if f"{owner}/{name}" in FakeHub.gated:
            raise GatedRepoError("401 Client Error: access to it is restricted", response=response(401))
        if FakeHub.failures[path]:
            FakeHub.failures[path] -= 1
            raise ConnectionError("the connection broke")
        return self.fs._local(self.path).read_bytes()[start:end]


def use_fake_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    """Register it for a test, with an empty cache of small blocks on disk."""
    FakeHub.root, FakeHub.reads, FakeHub.gated, FakeHub.failures = folder / "hub", [], set(), Counter()
    FakeHub.root.mkdir()
    implementations = sys.modules["fsspec.registry"]._registry  # fsspec.registry is a read-only view of it
    monkeypatch.setitem(implementations, "hf", FakeHub)
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(disk_cache, "KEEP_FREE_BYTES", 0)
    monkeypatch.setattr(disk_cache.BlockCache.__init__, "__defaults__", (BLOCK,))
    monkeypatch.setenv("JANUS_CACHE_DIR", str(folder / "cache"))
    monkeypatch.setenv("JANUS_CACHE_GIB", "1")
    remote._file_system.cache_clear()
    disk_cache._block_cache.cache_clear()
    return FakeHub

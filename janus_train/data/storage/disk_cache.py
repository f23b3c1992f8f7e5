"""Pieces of remote files on the local disk, bounded in bytes, shared by all processes of a machine.

``JANUS_CACHE_DIR``  the cache's folder, on a local disk (default: ``janus_train`` in the user's cache folder)
``JANUS_CACHE_GIB``  its size (default 10); 0: nothing is cached, each read is a request of its own

A good size is that of the shards in two windows of the reading order (8 shards per source), so that a piece is fetched once
per epoch. A piece is one file, named by a hash, written under another name and renamed; the least recently used pieces
are removed first. A lock file guards the sum of the sizes, so several processes together stay within the limit, except
for the piece that each one is writing. The cache is not trusted: a reader that finds a wrong digest drops the piece and
reads from the store (`BlockCache.drop`). A cache that cannot be written costs a warning and speed, never the run.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from janus_train.errors import UserError

BLOCK_BYTES = 4 << 20
"""A request's latency of some 30 ms is small beside the time for 4 MiB; a block contains some 50 samples."""
DEFAULT_GIB = 10.0
SMALLEST_GIB = 0.1
KEEP_FREE_BYTES = 1 << 30
"""The cache leaves this much of the disk free."""
LEFT_AFTER_EVICTION = 0.9
"""Evicting lists the whole folder, so it frees more than is needed at the moment."""
STALE_S = 3600.0
"""The writer of an unfinished file of this age has died."""
USE_PRECISION_S = 60.0
"""A piece's time of last use is updated at most this often."""

_log = logging.getLogger(__name__)


class BlockCache:
    """Bytes by name, in files of ``folder``, together at most ``limit`` bytes."""

    def __init__(self, folder: Path, limit: int, block_bytes: int = BLOCK_BYTES):
        self.folder, self.limit, self.block_bytes = folder, limit, block_bytes
        self._has_warned = False

    def read(self, name: str, offset: int, size: int | None, length: int | None, fetch: Callable[[], bytes]) -> bytes:
        """Read ``size`` bytes (None: all) from ``offset`` of the piece ``name``; ``fetch`` gets it if it is not cached.

        ``length``: the piece's size if it is known; a cached file of another size is incomplete and not used.
        """
        path = self._path(name)
        cached_data = self._read(path, offset, size, length)
        if cached_data is not None:
            return cached_data
        data = fetch()
        self._store(path, data)
        return data[offset : None if size is None else offset + size]

    def drop(self, name: str) -> None:
        """Remove a piece from the cache."""
        with suppress(OSError):
            self._path(name).unlink()

    @contextmanager
    def exclusively(self, name: str) -> Iterator[None]:
        """One process of the machine at a time runs the block, so that the others find in the cache what it has put there.

        A cache that cannot be written holds nobody up.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = (self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:40]}.lock").open("w")
        except OSError:
            yield
            return
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released with the file, even if the process is killed
            yield

    def _path(self, name: str) -> Path:
        name_digest = hashlib.sha256(name.encode()).hexdigest()[:40]
        return self.folder / name_digest[:2] / name_digest

    def _read(self, path: Path, offset: int, size: int | None, length: int | None) -> bytes | None:
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError:
            return None
        try:
            status = os.fstat(file)
            if length is not None and status.st_size != length:
                return None
            size = status.st_size - offset if size is None else size
            data = os.pread(file, size, offset)
            if time.time() - status.st_mtime > USE_PRECISION_S:
                with suppress(OSError):  # fails for another user's file, which then only looks older than it is
                    os.utime(file)
        except OSError:
            return None
        finally:
            os.close(file)
        return data if len(data) == size else None

    # -- writing

    def _store(self, path: Path, data: bytes) -> None:
        if len(data) > self.limit:
            return
        staging = path.with_name(f"{path.name}.{os.getpid()}-{time.monotonic_ns()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if shutil.disk_usage(self.folder).free < KEEP_FREE_BYTES + len(data):
                raise OSError(f"less than {KEEP_FREE_BYTES >> 30} GiB would be free on its disk")
            staging.write_bytes(data)
            with self._lock():
                self._make_room(len(data))
                os.replace(staging, path)
        except OSError as error:
            with suppress(OSError):
                staging.unlink()
            if not self._has_warned:
                _log.warning("cache %s cannot be written, reading continues without it: %s", self.folder, error)
                self._has_warned = True

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released with the file, even if the process is killed
            yield

    def _make_room(self, size: int) -> None:
        """Count ``size`` bytes, and remove the least recently used pieces if they do not fit. The caller holds the lock.

        The count can only be too high, if two processes wrote the same piece or one was killed; evicting corrects it.
        """
        counter = self.folder / "bytes"
        try:
            total = int(counter.read_text())
        except (OSError, ValueError):
            total = self.limit  # unknown: count
        if total + size > self.limit:
            total = self._evict(min(self.limit - size, int(self.limit * LEFT_AFTER_EVICTION)))
        counter.write_text(str(total + size))

    def _evict(self, target: int) -> int:
        """Remove pieces until at most ``target`` bytes are left; returns the bytes that are left."""
        pieces, total = [], 0
        for entry in (file for part in os.scandir(self.folder) if part.is_dir() for file in os.scandir(part)):
            with suppress(OSError):
                status = entry.stat()
                if not entry.name.endswith(".part"):
                    pieces.append((status.st_mtime_ns, status.st_size, entry.path))
                    total += status.st_size
                elif time.time() - status.st_mtime > STALE_S:
                    os.unlink(entry.path)  # noqa: PTH108 - an entry's path is text
        for _, size, path in sorted(pieces):
            if total <= target:
                break
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108
                total -= size
        return total


def block_cache() -> BlockCache | None:
    """The cache that the environment configures; None if it turns the cache off. Raises `UserError` for an invalid size."""
    return _block_cache(os.environ.get("JANUS_CACHE_DIR", ""), os.environ.get("JANUS_CACHE_GIB", ""))


@lru_cache(maxsize=8)
def _block_cache(folder: str, gib: str) -> BlockCache | None:
    try:
        size = float(gib) if gib else DEFAULT_GIB
    except ValueError:
        size = -1.0
    if size == 0:
        return None
    if not SMALLEST_GIB <= size < float("inf"):
        raise UserError(
            f"JANUS_CACHE_GIB={gib}: the cache's size is a number of GiB, at least {SMALLEST_GIB}; 0 for none"
        )
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "janus_train"
    return BlockCache(Path(folder).expanduser() if folder else default, int(size * 2**30))

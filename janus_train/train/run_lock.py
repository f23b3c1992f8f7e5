"""The lock that gives a run's folder one owner: its main process, for as long as it lives.

It is a POSIX lock (``fcntl.lockf``) on ``.lock`` in the folder; the file's text names the owner. Why POSIX:

- The kernel releases it when the process ends, whatever the cause, so the same command can start again right after
  ``kill -9``. Forked loader workers do not inherit it; a ``flock`` or an open-file-description lock would belong to
  them too and could outlive the trainer.
- NFS and Lustre (mounted with ``flock``) pass it on to their server, so it works between nodes. After the crash of a
  whole node, an NFS server waits for its lease (some 90 s) before it gives the lock to another.
- The drawback: a process that closes any descriptor of the file loses the lock, so nothing else opens ``.lock``.

On a file system without locks (Lustre mounted without ``flock``, some FUSE ones) a heartbeat replaces it: the owner
rewrites ``.lock`` every `HEARTBEAT_S`. A file older than `STALE_S`, or one from a dead process of this host, has no
owner. If two processes start at the same moment, the last writer wins.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from janus_train.errors import UserError
from janus_train.files import write_text

NAME = ".lock"
HEARTBEAT_S = 10.0
STALE_S = 60.0
_SETTLE_S = 1.0
"""The time after which every node reads the last of two simultaneous writes."""
_NO_LOCKS_ERRORS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class RunLock:
    """The lock of the run's folder ``run``, to use as a context. Nothing is written before `acquire`.

    ``option``: what messages call the option that names the folder. At the end ``.lock`` is removed, and with it the folders
    that had to be created for it, unless the run uses them.
    """

    def __init__(self, run: Path, option: str = "output_dir"):
        self._run, self._path, self._option = run, run / NAME, option
        self._new_folders: list[Path] = []
        self._descriptor: int | None = None
        self._heartbeat: _Heartbeat | None = None

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock.

        Raises `UserError` if a living process has it (naming host and process) or it cannot be written.
        """
        try:
            self._new_folders = [path for path in (self._run, *self._run.parents) if not path.exists()]
            self._run.mkdir(parents=True, exist_ok=True)
            if not self._lock():
                self._refuse()
        except OSError as error:
            self._remove_new_folders()
            raise UserError(f"{self._option} {self._run} cannot be written: {error.strerror or error}") from None

    def release(self) -> None:
        """Release the lock, if it was acquired."""
        if self._descriptor is None and self._heartbeat is None:
            return
        with suppress(OSError):  # the folder was deleted or is no longer writable
            if self._heartbeat is not None:
                self._heartbeat.stop()
            if self._heartbeat is None or self._heartbeat.is_ours():
                self._path.unlink(missing_ok=True)  # before the lock is released, while the file is ours
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = self._heartbeat = None
        self._remove_new_folders()

    def _lock(self) -> bool:
        """Try to take the lock; returns whether this process has it."""
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_at_its_path(descriptor):
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, _description().encode(), 0)
                    os.fsync(descriptor)  # other nodes read the owner from it
                    self._descriptor, descriptor = descriptor, -1
                    return True
            except OSError as error:
                if error.errno in _NO_LOCKS_ERRORS:
                    return self._start_heartbeat()
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                return False
            finally:
                if descriptor >= 0:
                    os.close(descriptor)

    def _is_at_its_path(self, descriptor: int) -> bool:
        """Whether the open file is still the one at the path.

        The previous owner may have removed it after we opened it.
        """
        try:
            path_stat, file_stat = self._path.stat(), os.fstat(descriptor)
        except FileNotFoundError:
            return False
        return (path_stat.st_dev, path_stat.st_ino) == (file_stat.st_dev, file_stat.st_ino)

    def _start_heartbeat(self) -> bool:
        if _is_held_by_heartbeat(self._path):
            return False
        heartbeat = _Heartbeat(self._path)
        heartbeat.write()
        time.sleep(_SETTLE_S)
        if not heartbeat.is_ours():
            return False
        heartbeat.start()
        self._heartbeat = heartbeat
        return True

    def _refuse(self) -> None:
        holder = _read(self._path)
        owner = "a run"
        if holder:
            owner = f"a run on host {holder.get('host')} (pid {holder.get('pid')}), started {holder.get('started')}"
        raise UserError(
            f"{self._option} {self._run} is in use by {owner}: wait for it, stop it, or choose another {self._option}"
        )

    def _remove_new_folders(self) -> None:
        for path in self._new_folders:
            with suppress(OSError):  # the run has put files into it
                path.rmdir()
        self._new_folders = []


class _Heartbeat:
    """Rewrites the file every `HEARTBEAT_S` until it is stopped or another process owns the file."""

    def __init__(self, path: Path):
        self._path, self._token = path, secrets.token_hex(8)
        self._text = _description(token=self._token)
        self._stop_event = threading.Event()

    def write(self) -> None:
        write_text(self._path, self._text)

    def is_ours(self) -> bool:
        return _read(self._path).get("token") == self._token

    def start(self) -> None:
        threading.Thread(target=self._beat, name="run lock", daemon=True).start()

    def stop(self) -> None:
        self._stop_event.set()

    def _beat(self) -> None:
        while not self._stop_event.wait(HEARTBEAT_S):
            with suppress(OSError):  # the disk is full at the moment
                if self.is_ours():
                    self.write()


def _description(**fields: str) -> str:
    start = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": start, **fields}) + "\n"


def _read(path: Path) -> dict[str, Any]:
    """The owner's description; empty if the file does not exist or is not yet written."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_held_by_heartbeat(path: Path) -> bool:
    """Whether a living process owns the file, judged by the file server's own clock."""
    holder = _read(path)
    if not holder.get("token"):
        return False
    if holder.get("host") == socket.gethostname() and isinstance(holder.get("pid"), int):
        return _is_alive(holder["pid"])
    probe = path.with_name(f"{NAME}.{secrets.token_hex(4)}")
    try:
        probe.touch()
        server_time = probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
    return server_time - path.stat().st_mtime < STALE_S


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""One owner of a run's folder: a lock that its main process holds for as long as it lives.

The lock is POSIX's (``fcntl.lockf``) on ``.lock`` in the folder, whose text says who holds it. Why this one of three:

- The kernel gives it up when the process ends, however that happens, so the same command can start again right after
  ``kill -9``; forked loader workers do not inherit it. A ``flock`` or an open-file-description lock belongs to them too
  and would outlive the trainer for as long as they do.
- NFS and Lustre (mounted with ``flock``) pass it on to their server, so it holds between nodes. After the crash of a whole
  node an NFS server waits for its lease, some 90 s, before it gives the lock to another.
- Its price: a process that closes any descriptor of the file loses it, so nothing else here opens ``.lock``.

A file system without locks (Lustre mounted without, some FUSE ones) gets a heartbeat instead: the holder writes ``.lock``
anew every `HEARTBEAT_S`, and a file that is `STALE_S` old belongs to nobody, nor one of a process of this host that is
gone. Two starts within the same moment are then told apart by who wrote last.
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
"""After which the last of two that wrote at once can be read everywhere."""
_NO_LOCKS_ERRORS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class RunLock:
    """Of the run's folder ``run``; use as a context. Nothing is written before `acquire`, and nothing is left of it after.

    Folders that it had to make for ``.lock`` go with it, unless the run has put something into them.
    """

    def __init__(self, run: Path):
        self._run, self._path = run, run / NAME
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
        """Raises `UserError` that names host and process if a living one holds it, or if it cannot be written."""
        try:
            self._new_folders = [path for path in (self._run, *self._run.parents) if not path.exists()]
            self._run.mkdir(parents=True, exist_ok=True)
            if not self._lock():
                self._refuse()
        except OSError as error:
            self._remove_new_folders()
            raise UserError(f"output_dir {self._run} cannot be written: {error.strerror or error}") from None

    def release(self) -> None:
        """Give it up; without `acquire`, nothing."""
        if self._descriptor is None and self._heartbeat is None:
            return
        with suppress(OSError):  # a folder that is gone, or can no longer be written
            if self._heartbeat is not None:
                self._heartbeat.stop()
            if self._heartbeat is None or self._heartbeat.is_ours():
                self._path.unlink(missing_ok=True)  # while it is held: what is there is ours
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = self._heartbeat = None
        self._remove_new_folders()

    def _lock(self) -> bool:
        """Whether it is ours now."""
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_at_its_path(descriptor):
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, _description().encode(), 0)
                    os.fsync(descriptor)  # other nodes read who it is
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
        """Not if the holder before has taken it away between our opening it and its end."""
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
            f"output_dir {self._run} is in use by {owner}: wait for it, stop it, or choose another output_dir"
        )

    def _remove_new_folders(self) -> None:
        for path in self._new_folders:
            with suppress(OSError):  # it is the run's now
                path.rmdir()
        self._new_folders = []


class _Heartbeat:
    """Writes the file anew from time to time, until it is stopped or the file is another's."""

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
            with suppress(OSError):  # a disk that is full at the moment
                if self.is_ours():
                    self.write()


def _description(**fields: str) -> str:
    start = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": start, **fields}) + "\n"


def _read(path: Path) -> dict[str, Any]:
    """Empty for what is not there, or not yet written."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_held_by_heartbeat(path: Path) -> bool:
    """Whether a living process keeps it, by the file server's own clock."""
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

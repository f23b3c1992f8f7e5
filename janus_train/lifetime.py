"""Ends processes together with their parent, however the parent ends, even by kill -9 or ``os._exit``.

Loader workers are forked, not spawned: they share the trainer's indexes, which are gigabytes for large data and would be
copied to each of them, start at once, and need nothing that can be pickled or a main module that can be imported twice.
A worker first calls `end_with` the trainer and `let_go_of_sockets`: with open sockets, a dead trainer would look alive to
the other ranks, and keep its port, for as long as the worker runs. Linux only.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import socket
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path

LOOK_EVERY_S = 1.0
_PR_SET_PDEATHSIG = 1


def can_signal_its_death() -> bool:
    """Whether a child forked now may use ``by_signal`` of `end_with`: to Linux the forking thread is the parent."""
    return threading.current_thread() is threading.main_thread()


def end_with(parent: int, by_signal: bool) -> None:
    """Makes the calling child process end when the process ``parent`` ends.

    ``by_signal``: the kernel kills it at once. Without it, or if the kernel refuses, the caller has to call
    `end_if_orphan` often.
    """
    if by_signal:
        with suppress(OSError, AttributeError):  # a libc without prctl
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    end_if_orphan(parent)  # there is no signal if the parent died before prctl


def end_if_orphan(parent: int) -> None:
    """Ends an orphan at once, without waiting for threads or flushing a queue that nobody reads."""
    if os.getppid() != parent:
        os._exit(1)


def end_with_pool() -> None:
    """For a worker of a process pool: Ctrl-C is left to the parent, and the worker ends when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def let_go_of_sockets() -> None:
    """Replaces a forked child's copies of the parent's TCP and UDP sockets by ``/dev/null``.

    Their descriptors stay open, because the objects that own them in the child may close them at any time.
    """
    null_device = os.open(os.devnull, os.O_RDWR)
    for number in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        with suppress(OSError):  # the listing's own descriptor is closed by now
            if stat.S_ISSOCK(os.fstat(number).st_mode) and _family(number) in (socket.AF_INET, socket.AF_INET6):
                os.dup2(null_device, number, inheritable=False)
    os.close(null_device)


def _family(descriptor: int) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        return copy.family


def is_launched() -> bool:
    """Whether a launcher started this process: torch's, or Accelerate's, which is also used for a single process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ


def stop_without_launcher() -> None:
    """Makes a trainer treat the end of its launcher as SIGTERM: it saves a checkpoint and ends.

    It does not end at once, because after a Ctrl-C or a scheduler's signal, which may end the launcher first, the trainer
    saves a checkpoint as well. Without a launcher the parent may end: a shell after logout, or ``nohup``.
    """
    if is_launched():
        threading.Thread(target=_watch, args=(os.getppid(),), name="launcher", daemon=True).start()


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(LOOK_EVERY_S)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        rank_name = f"rank {os.environ.get('RANK', '0')} on {socket.gethostname()}"
        with suppress(OSError):  # the pipe may have closed with the launcher
            os.write(2, f"{rank_name}: its launcher (pid {launcher}) is gone, which is taken as SIGTERM\n".encode())
    os.kill(os.getpid(), signal.SIGTERM)

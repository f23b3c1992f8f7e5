"""Processes end with the one that started them, however that one ends: kill -9 and ``os._exit`` tell nobody.

Loader workers are forked, not spawned: they share the trainer's indexes, which are gigabytes for large data and would be
copied to each of them, start at once, and need nothing that can be pickled or a main module that can be imported twice.
What a fork must not share is undone first thing in the worker: `end_with` the trainer, and `let_go_of_sockets`, or the
other ranks and the port would see a dead trainer as alive for as long as the worker runs. Linux only.
"""

from __future__ import annotations

import ctypes
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
    """Whether a child forked now may use ``by_signal`` of `end_with`: Linux takes the thread that forked for the parent."""
    return threading.current_thread() is threading.main_thread()


def end_with(parent: int, by_signal: bool) -> None:
    """Called in a child: it ends when the process ``parent`` does.

    ``by_signal``: the kernel kills it at once. A caller without that, or whose kernel refuses, calls `end_if_orphan` often.
    """
    if by_signal:
        with suppress(OSError, AttributeError):  # a libc without prctl
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    end_if_orphan(parent)  # who died before the kernel was asked sends no signal


def end_if_orphan(parent: int) -> None:
    """At once, with nothing that waits for threads or flushes a queue that nobody reads."""
    if os.getppid() != parent:
        os._exit(1)


def let_go_of_sockets() -> None:
    """Called in a forked child: its copies of the parent's TCP and UDP sockets become ``/dev/null``.

    Their numbers stay taken, since the objects that own them here as well may close them at any time.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        with suppress(OSError):  # the listing's own descriptor is closed by now
            if stat.S_ISSOCK(os.fstat(number).st_mode) and _family(number) in (socket.AF_INET, socket.AF_INET6):
                os.dup2(nothing, number, inheritable=False)
    os.close(nothing)


def _family(descriptor: int) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        return copy.family


def stop_without_launcher() -> None:
    """For a trainer: if a launcher started it, the launcher's end counts as SIGTERM: a checkpoint, then the end.

    Not at once, since a Ctrl-C or a scheduler's signal that the launcher does not survive has the trainer save one too.
    Elsewhere the parent may go: a shell that is logged out of, a ``nohup``.
    """
    # set for its trainers by torch's launcher, and by Accelerate's also for a single one
    if "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ:
        threading.Thread(target=_watch, args=(os.getppid(),), name="launcher", daemon=True).start()


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(LOOK_EVERY_S)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        where = f"rank {os.environ.get('RANK', '0')} on {socket.gethostname()}"
        with suppress(OSError):  # a pipe that went with the launcher
            os.write(2, f"{where}: its launcher (pid {launcher}) is gone, which is taken as SIGTERM\n".encode())
    os.kill(os.getpid(), signal.SIGTERM)

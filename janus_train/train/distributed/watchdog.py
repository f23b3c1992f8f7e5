"""A heartbeat a step: a process that shows none past the deadline writes where it hangs and ends.

A rank that waits in a collective for one that is stopped, dead or cut off notices itself, as every other does: so all of
them end within the deadline, whatever happened to the one. The stopped one is ended by its launcher.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import threading
import time
from types import TracebackType

from janus_train.train.distributed.signals import EXIT_PEER_LOST

STDERR = 2


class Watchdog:
    """While open, counts the seconds without a `beat`; ``first_s`` are allowed before the first, ``later_s`` after."""

    def __init__(self, rank: int, first_s: float, later_s: float):
        self._rank, self._first_s, self._later_s = rank, first_s, later_s
        self._allowed_s, self._after = first_s, "start"
        self._silent_s = 0.0
        self._closed = threading.Event()

    def __enter__(self) -> Watchdog:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()

    def beat(self, after: str, long: bool = False) -> None:
        """``after`` (say "step 7") is done; what comes may take ``later_s``, or ``first_s`` if it is ``long``."""
        self._after, self._allowed_s = after, self._first_s if long else self._later_s
        self._silent_s = 0.0

    def _watch(self) -> None:
        tick_s = min(1.0, self._later_s / 5)
        before = time.monotonic()
        while not self._closed.wait(tick_s):
            now = time.monotonic()
            # ticks, not the clock: a process that was suspended (Ctrl-Z) did not hang in the meantime
            self._silent_s += min(now - before, 2 * tick_s)
            before = now
            if self._silent_s > self._allowed_s:
                self._end()

    def _end(self) -> None:
        where = f"rank {self._rank} on {socket.gethostname()} (pid {os.getpid()})"
        line = f"error: {where}: nothing since {self._after} for {self._allowed_s:.0f} s; it hangs here:\n"
        os.write(STDERR, line.encode())
        faulthandler.dump_traceback(STDERR, all_threads=True)
        os._exit(EXIT_PEER_LOST)

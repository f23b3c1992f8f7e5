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
        self._limit_s, self._last_event = first_s, "start"
        self._silence_s = 0.0
        self._close_event = threading.Event()

    def __enter__(self) -> Watchdog:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_event.set()

    def beat(self, event: str, long: bool = False) -> None:
        """``event`` (say "step 7") is done; what comes may take ``later_s``, or ``first_s`` if it is ``long``."""
        self._last_event, self._limit_s = event, self._first_s if long else self._later_s
        self._silence_s = 0.0

    def _watch(self) -> None:
        tick_s = min(1.0, self._later_s / 5)
        last_tick = time.monotonic()
        while not self._close_event.wait(tick_s):
            tick = time.monotonic()
            # ticks, not the clock: a process that was suspended (Ctrl-Z) did not hang in the meantime
            self._silence_s += min(tick - last_tick, 2 * tick_s)
            last_tick = tick
            if self._silence_s > self._limit_s:
                self._end()

    def _end(self) -> None:
        rank_name = f"rank {self._rank} on {socket.gethostname()} (pid {os.getpid()})"
        line = f"error: {rank_name}: nothing since {self._last_event} for {self._limit_s:.0f} s; it hangs here:\n"
        os.write(STDERR, line.encode())
        faulthandler.dump_traceback(STDERR, all_threads=True)
        os._exit(EXIT_PEER_LOST)

"""One heartbeat per step: a process without one past the deadline prints its stacks and ends.

A rank that waits in a collective for a suspended, dead or unreachable one stops its own heartbeat, as all others do. So
all of them end within the deadline, and the launcher ends the suspended one.
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
        """Record that ``event`` (say "step 7") is done.

        The next beat is due in ``later_s``, or in ``first_s`` if ``long``.
        """
        self._last_event, self._limit_s = event, self._first_s if long else self._later_s
        self._silence_s = 0.0

    def _watch(self) -> None:
        tick_s = min(1.0, self._later_s / 5)
        last_tick = time.monotonic()
        while not self._close_event.wait(tick_s):
            tick = time.monotonic()
            # count ticks, not the clock: a process that was suspended (Ctrl-Z) did not hang
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

"""Stopping on request: a signal sets a flag, all ranks agree on it at the end of a step, and a checkpoint is saved.

In: SIGTERM (`kill`, a scheduler that preempts), SIGUSR1 (Slurm, before the time limit), SIGINT (Ctrl-C). Out:
`Preempted` on every rank after the same step, and an exit code that tells a scheduler to run the same command again.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

EXIT_PREEMPTED = 75
"""Stopped by a signal with a checkpoint; the same command resumes (sysexits' EX_TEMPFAIL)."""
EXIT_PEER_LOST = 76
"""Another process is gone or hangs; the same command resumes from the latest checkpoint."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
FORCE_AFTER_S = 3.0
"""A second Ctrl-C ends the process only this long after the first: terminal and launcher may both deliver one."""


class Preempted(Exception):
    """All ranks have agreed to stop; the message says which step is saved."""


class PeerLost(Exception):
    """Another process of the job is gone, and this one cannot continue without it."""


class StopSignals:
    """While open, a signal is noted in ``number`` (0: none) instead of ending the process.

    After a signal, later ones are ignored even when this is closed. Python handles signals in the main thread only: in
    another thread ``number`` stays 0.
    """

    def __init__(self, announce: bool):
        self.number = 0
        self._announce, self._signal_time, self._old_handlers = announce, 0.0, dict[int, Any]()

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._old_handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old_handlers.items():
            # a second signal must not end the process with another exit code while it shuts down
            signal.signal(number, signal.SIG_IGN if self.number else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.number:
            self.number, self._signal_time = number, time.monotonic()
            if self._announce:  # os.write: a handler may interrupt a print
                name = signal.Signals(number).name
                os.write(2, f"{name}: stopping after this step, with a checkpoint (Ctrl-C again: at once)\n".encode())
        elif number == signal.SIGINT and time.monotonic() - self._signal_time > FORCE_AFTER_S:
            os._exit(128 + signal.SIGINT)  # an unfinished checkpoint is in a staging folder, which is ignored

"""A run's log: Python's ``logging``, shown by rank 0 on standard error, beside the progress bar.

Every module logs to its own logger below ``janus_train``. Warnings of other ranks repeat rank 0's, so they
are dropped; errors of any rank are shown.
"""

from __future__ import annotations

import logging
import os

from rich.console import Console

from janus_train.text import printable_line


class RankFilter(logging.Filter):
    """Passes rank 0's messages, and errors of any rank."""

    def __init__(self, rank: int):
        super().__init__()
        self._rank = rank

    def filter(self, record: logging.LogRecord) -> bool:
        return self._rank == 0 or record.levelno >= logging.ERROR


class ConsoleHandler(logging.Handler):
    """Prints one line per message: no markup, control characters escaped, warnings and errors with a prefix."""

    def __init__(self, console: Console):
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        self._console.print(
            f"{prefix}{printable_line(record.getMessage())}", markup=False, highlight=False, soft_wrap=True
        )


def set_up_logging(rank: int | None = None) -> Console:
    """Show the package's messages on standard error; returns the console that shows them, for a progress bar to share.

    ``rank``: None takes the launcher's ``RANK``.
    """
    console = Console(stderr=True)
    handler = ConsoleHandler(console)
    handler.addFilter(RankFilter(int(os.environ.get("RANK", "0")) if rank is None else rank))
    package = logging.getLogger("janus_train")
    for old_handler in [handler for handler in package.handlers if isinstance(handler, ConsoleHandler)]:
        package.removeHandler(old_handler)
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    package.propagate = False
    return console

"""The output of commands: progress bars on a terminal, tables for terminals and files, JSON lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from janus_train.jsonl import json_line
from janus_train.text import printable_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


def note(message: str) -> None:
    """A line on standard error; what is in it of data acts on no terminal."""
    print(printable_line(message), file=sys.stderr, flush=True)


def bars(*columns: Any) -> Progress:
    """rich's bars on standard error (use as a context); if that is not a terminal, nothing is shown."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not console.is_terminal)


def count_bar(unit: str) -> Progress:
    """`bars` that count ``unit``: finished and total number, elapsed and remaining time."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return bars(
        BarColumn(), MofNCompleteColumn(), TextColumn(unit, markup=False), TimeElapsedColumn(), TimeRemainingColumn()
    )


def bytes_bar() -> Progress:
    """`bars` that count bytes: a description, finished and total bytes, remaining time."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn

    return bars(TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())


class PhaseProgress:
    """Progress of work in phases: a bar per phase, or, without a terminal, a line at the end of each phase."""

    def __init__(self, bars: Progress):
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def report(self, phase: str, completed: int, total: int) -> None:
        if self._bars.disable:
            if completed == total:
                note(f"{phase}: {completed} of {total}")
            return
        if phase not in self._tasks:
            self._tasks[phase] = self._bars.add_task(phase, total=total)
        self._bars.update(self._tasks[phase], completed=completed)


class JsonLines:
    """Writes JSON lines to standard output; stops silently if the reader stops (``| head``)."""

    def __init__(self) -> None:
        self.is_closed = False

    def write(self, values: list[dict[str, Any]]) -> None:
        self._try(lambda: sys.stdout.writelines(map(json_line, values)))
        self._try(sys.stdout.flush)

    def _try(self, action: Callable[[], object]) -> None:
        if self.is_closed:
            return
        try:
            action()
        except BrokenPipeError:
            self.is_closed = True
            # the rest of the buffer would fail again when the interpreter flushes it at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def table_console(width: int) -> Console:
    """Standard output, ``width`` columns wide if it is not a terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=width)

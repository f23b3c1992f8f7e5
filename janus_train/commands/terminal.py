"""What commands show: progress bars on a terminal, tables that a file can hold too, JSON lines."""

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
    """rich's bars on standard error (use as a context); where that is no terminal nothing is drawn."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not console.is_terminal)


def count_bar(unit: str) -> Progress:
    """`bars` that count: how many of how many ``unit``, time gone and time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return bars(
        BarColumn(), MofNCompleteColumn(), TextColumn(unit, markup=False), TimeElapsedColumn(), TimeRemainingColumn()
    )


def bytes_bar() -> Progress:
    """`bars` that count bytes: a description, how many of how many, time left."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn

    return bars(TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())


class PhaseProgress:
    """Progress of work in phases: a bar per phase, or without a terminal a line when the phase ends."""

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
    """Standard output as JSON lines; a reader that has seen enough (``| head``) ends it without a message."""

    def __init__(self) -> None:
        self.closed = False

    def write(self, values: list[dict[str, Any]]) -> None:
        self._try(lambda: sys.stdout.writelines(map(json_line, values)))
        self._try(sys.stdout.flush)

    def _try(self, action: Callable[[], object]) -> None:
        if self.closed:
            return
        try:
            action()
        except BrokenPipeError:
            self.closed = True
            # what is still in the buffer would fail again when the interpreter flushes it at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def table_console(width: int) -> Console:
    """Standard output, ``width`` columns wide where that is no terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=width)

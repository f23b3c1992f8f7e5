"""Shows the progress of a conversion on standard error: a bar on a terminal, otherwise a line now and then."""

from __future__ import annotations

import sys
import time
from typing import Any

from janus_train.datatools.prepare.output import Totals

_SECONDS = 15.0
"""Time between two lines."""


class ProgressDisplay:
    """The progress display, to be used as a context."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        console = Console(stderr=True)
        columns: list[Any] = [
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(),
        ]
        self._bars = Bars(*columns, console=console) if console.is_terminal else None
        self._task: Any = self._bars.add_task("reading the input", total=None) if self._bars else None
        self._last_report_s = time.monotonic()
        self._start: tuple[float, int] | None = None

    def __enter__(self) -> ProgressDisplay:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    def compare(self, units: int, all_units: int) -> None:
        """Show how much of the input that has another time was read again."""
        if self._bars:
            self._bars.update(self._task, completed=units, total=all_units, description="comparing the input")
        elif time.monotonic() - self._last_report_s >= _SECONDS:
            print(f"{units:,} of {all_units:,} pieces of the input compared", file=sys.stderr, flush=True)
            self._last_report_s = time.monotonic()

    def report(self, totals: Totals, records: int) -> None:
        summary = f"{totals.samples:,} samples, {totals.shards} shards" + (
            f", {totals.num_bad:,} bad" if totals.num_bad else ""
        )
        if self._bars:
            self._bars.update(self._task, completed=totals.records, total=records, description=summary)
            return
        now = time.monotonic()
        self._start = self._start or (now, totals.records)
        if now - self._last_report_s >= _SECONDS:
            rate = (totals.records - self._start[1]) / (now - self._start[0]) if now > self._start[0] else 0.0
            print(
                f"{totals.records:,} of {records:,} records, {summary}, {rate:.0f} records/s",
                file=sys.stderr,
                flush=True,
            )
            self._last_report_s = now

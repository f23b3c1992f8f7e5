"""What commands show: bars to a person who watches, tables that a file can hold too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def bars(*columns: Any) -> Progress:
    """rich's bars on standard error (use as a context); where that is no terminal nothing is drawn."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not console.is_terminal)


def count_bar(unit: str) -> Progress:
    """`bars` that count: how many of how many ``unit``, time gone and time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return bars(BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn(), TimeRemainingColumn())


def table_console(width: int) -> Console:
    """Standard output, ``width`` columns wide where that is no terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=width)

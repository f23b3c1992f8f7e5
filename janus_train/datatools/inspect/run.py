"""The rows of some steps of a run: handed on as JSON values, and written as a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus_train.config import Config
from janus_train.data.loader import worker_deaths_as_user_errors
from janus_train.datatools.inspect.drawn import line, open_drawn
from janus_train.datatools.inspect.page import Page
from janus_train.files import write_text


@dataclass(frozen=True)
class InspectResult:
    """What was noticed on the way."""

    quarantined: int
    """Samples that cannot be used; others were drawn in their place."""
    page_cut: str
    """What the page leaves out, in words; empty if nothing."""


def inspect_run(
    config: Config,
    first_step: int,
    num_steps: int,
    write_rows: Callable[[list[dict[str, Any]]], bool],
    html: Path | None = None,
) -> InspectResult:
    """Draw the rows of ``num_steps`` steps from ``first_step`` on, without a model.

    ``write_rows`` gets the rows of each step as JSON values and says whether more are wanted; with ``html`` the page is
    made whole all the same. Raises `UserError` naming what is missing or damaged.
    """
    drawn = open_drawn(config)
    page = Page(drawn) if html is not None else None
    quarantined = 0
    with worker_deaths_as_user_errors():
        for step, rows in drawn.steps(first_step, num_steps):
            wanted = write_rows([line(step, row) for row in rows])
            quarantined += sum(len(row.quarantined) for row in rows)
            if page is not None:
                page.add(step, rows)
            elif not wanted:
                break
    if html is not None and page is not None:
        write_text(html, page.html())
    return InspectResult(quarantined, page.cut if page is not None else "")

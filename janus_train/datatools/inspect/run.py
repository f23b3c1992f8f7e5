"""Inspects a run. In: a configuration and a range of steps. Out: their rows as JSON values, and a page if wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus_train.config import Config
from janus_train.data.loader import worker_deaths_as_user_errors
from janus_train.datatools.inspect.drawn import line, open_run_data
from janus_train.datatools.inspect.page import Page
from janus_train.files import write_text


@dataclass(frozen=True)
class InspectResult:
    """Facts to report to the user."""

    num_quarantined: int
    """Number of unusable samples, which others replaced."""
    num_held_out: int
    """Number of held-out samples, which were passed over."""
    page_omissions: str
    """A note on what the page leaves out; empty if it leaves out nothing."""


def inspect_run(
    config: Config,
    first_step: int,
    num_steps: int,
    write_rows: Callable[[list[dict[str, Any]]], bool],
    html: Path | None = None,
) -> InspectResult:
    """Read the rows of ``num_steps`` steps from ``first_step`` on, without a model.

    ``write_rows`` gets the rows of each step as JSON values and returns whether it wants more; with ``html`` the page is
    completed in any case. Raises `UserError` naming what is missing or damaged.
    """
    data = open_run_data(config)
    page = Page(data) if html is not None else None
    num_quarantined = num_held_out = 0
    with worker_deaths_as_user_errors():
        for step, rows in data.steps(first_step, num_steps):
            wants_more = write_rows([line(step, row) for row in rows])
            num_quarantined += sum(len(row.quarantined) for row in rows)
            num_held_out += sum(row.num_held_out for row in rows)
            if page is not None:
                page.add(step, rows)
            elif not wants_more:
                break
    if html is not None and page is not None:
        write_text(html, page.html())
    return InspectResult(num_quarantined, num_held_out, page.omissions if page is not None else "")

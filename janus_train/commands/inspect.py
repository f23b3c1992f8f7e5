"""``janus-train inspect``: what a run would be trained on."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from janus_train.commands.run_options import Overrides, check_target


def inspect(
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, help="How many steps.")] = 1,
    from_step: Annotated[
        int, typer.Option(min=1, help="The first of them; those before it are drawn and not shown.")
    ] = 1,
    html: Annotated[
        Path | None, typer.Option(help="Also write a page to look at: the rows, their pictures and their tokens.")
    ] = None,
) -> None:
    """Write what a run would be trained on, one JSON line a row. Loads no model, needs no GPU, writes nothing else.

    A line holds step, row (the number of its stream), digest, and samples with source, kind, key and tokens. Training
    logs the digest of a step's row digests as batch_digest.
    """
    from janus_train.config import load
    from janus_train.overrides import compose_values

    if html is not None:
        check_target(html)
    config = load(compose_values(overrides or []))
    from janus_train.datatools.inspect.drawn import line, open_drawn
    from janus_train.datatools.inspect.page import Page
    from janus_train.files import write_text

    drawn = open_drawn(config)
    last = from_step + steps - 1
    if last > config.run.steps:
        print(f"note: the run stops at step {config.run.steps}, before step {last}", file=sys.stderr)
    page = Page(drawn) if html is not None else None
    out, quarantined = _Lines(), 0
    for step, rows in drawn.steps(from_step, steps):
        out.write([line(step, row) for row in rows])
        quarantined += sum(len(row.quarantined) for row in rows)
        if page is not None:
            page.add(step, rows)
        elif out.closed:
            break
    if quarantined:
        print(
            f"note: {quarantined} samples cannot be used and others were drawn: janus-train verify lists them",
            file=sys.stderr,
        )
    if html is not None and page is not None:
        write_text(html, page.html())
        print(f"page: {html}{f' ({page.cut})' if page.cut else ''}", file=sys.stderr)


class _Lines:
    """Standard output as JSON lines; a reader that has seen enough (``| head``) ends it without a word."""

    def __init__(self) -> None:
        self.closed = False

    def write(self, values: list[dict[str, Any]]) -> None:
        if not self.closed:
            self._do(lambda: sys.stdout.writelines(json.dumps(value) + "\n" for value in values))
            self.flush()

    def flush(self) -> None:
        if not self.closed:
            self._do(sys.stdout.flush)

    def _do(self, action: Any) -> None:
        try:
            action()
        except BrokenPipeError:
            self.closed = True
            # what is still in the buffer would fail again when the interpreter flushes it at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""``janus-train inspect``: shows what a run would be trained on."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from janus_train.commands.options import ConfigDir, Html, Overrides
from janus_train.commands.terminal import JsonLines, note
from janus_train.compose import compose_config
from janus_train.targets import check_file


def inspect(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    steps: Annotated[int, typer.Option(min=1, help="Number of steps.")] = 1,
    from_step: Annotated[
        int, typer.Option(min=1, help="First step to show; earlier steps are sampled but not shown.")
    ] = 1,
    html: Html = None,
) -> None:
    """Write what a run would be trained on, one JSON line per row.

    Loads no model, needs no GPU, and writes nothing but the lines and the page. A line contains step, row (the number of its
    stream), digest, and samples with source, kind, key and tokens. Training logs the digest of a step's row digests as
    batch_digest. The page of --html shows the rows with their images and tokens.

    \b
    Examples:
      janus-train inspect +stage=2 --steps 10
      janus-train inspect +stage=3 data.recipe=recipe.yaml --html rows.html
    """

    if html is not None:
        check_file(html, "--html", "rows.html")
    config = compose_config(overrides or [], config_dir)
    from janus_train.datatools.inspect.run import inspect_run

    last_step = from_step + steps - 1
    if last_step > config.run.steps:
        note(f"note: the run stops at step {config.run.steps}, before step {last_step}")
    lines = JsonLines()

    def write_rows(rows: list[dict[str, Any]]) -> bool:
        lines.write(rows)
        return not lines.is_closed

    result = inspect_run(config, from_step, steps, write_rows, html)
    if result.num_quarantined:
        note(
            f"note: {result.num_quarantined} samples cannot be used and were replaced by others: janus-train verify lists them"
        )
    if result.num_held_out:
        note(f"note: {result.num_held_out} samples are held out and were passed over")
    if html is not None:
        note(f"page: {html}{f' ({result.page_omissions})' if result.page_omissions else ''}")

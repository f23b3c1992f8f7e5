"""``janus-train plan``: what a run needs and how long it takes, before it is paid for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from janus_train.commands.run_options import Overrides, check_target
from janus_train.commands.terminal import table_console


def plan(
    overrides: Overrides = None,
    gpus: Annotated[int, typer.Option(min=1, help="How many GPUs.")] = 1,
    gpu: Annotated[
        str, typer.Option(help="Which: a100-40gb, a100-80gb, h100, h100-pcie, h200, rtx4090, rtx3090.")
    ] = "h100",
    mfu: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=1.0, help="Useful FLOPs over peak while computing. Left out: as benchmarked here, else 0.4."
        ),
    ] = None,
    cached_codes: Annotated[
        bool, typer.Option("--cached-codes", help="Count on janus-train tokenize: no VQ encoder in training.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Also write a page to look at.")] = None,
) -> None:
    """Plan a stage: FLOPs by part, memory of a GPU under every way of running it, communication, days, a recommendation.

    By arithmetic on the configuration; needs neither a GPU nor data nor weights. The other two stages are planned along
    for the days and GPU-hours of the whole run.
    """
    from janus_train.planning.gpus import gpu_named

    card = gpu_named(gpu)
    if html is not None:
        check_target(html)
    from janus_train.planning.run_plan import plan_run
    from janus_train.planning.text import WIDTH, show

    found = plan_run(overrides or [], card, gpus, mfu, cached_codes)
    show(found, table_console(WIDTH))
    if html is not None:
        from janus_train.files import write_text
        from janus_train.planning.page import page

        write_text(html, page(found))
        print(f"page: {html}", file=sys.stderr)

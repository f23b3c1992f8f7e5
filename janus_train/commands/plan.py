"""``janus-train plan``: computes what a run needs and how long it takes, before it is started."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from janus_train.commands.options import ConfigDir, Html, Overrides
from janus_train.commands.terminal import table_console
from janus_train.planning.gpus import GPUS, gpu_named
from janus_train.targets import check_file


def plan(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    gpus: Annotated[int, typer.Option(min=1, help="Number of GPUs.")] = 1,
    gpu: Annotated[str, typer.Option(help=f"GPU model: {', '.join(GPUS)}.")] = "h100",
    mfu: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1.0,
            help="Model FLOPs utilisation while computing. Default: as benchmarked in this repository, or 0.4.",
        ),
    ] = None,
    cached_codes: Annotated[
        bool,
        typer.Option("--cached-codes", help="Assume cached codes (janus-train tokenize): training runs no VQ encoder."),
    ] = False,
    html: Html = None,
) -> None:
    """Plan a stage: FLOPs per part, GPU memory for each way of running it, communication, days, and a recommendation.

    Computed from the configuration alone; needs no GPU, data or weights. The other two stages are included in the days
    and GPU hours of the whole run.

    \b
    Examples:
      janus-train plan +stage=1 model=janus_pro_1b
      janus-train plan +stage=3 model=janus_pro_7b --gpus 64 --gpu a100-80gb --html plan.html
    """
    card = gpu_named(gpu)
    if html is not None:
        check_file(html, "--html", "plan.html")
    from janus_train.planning.run_plan import plan_run
    from janus_train.planning.text import WIDTH, show

    run_plan = plan_run(overrides or [], card, gpus, mfu, cached_codes, config_dir)
    show(run_plan, table_console(WIDTH))
    if html is not None:
        from janus_train.files import write_text
        from janus_train.planning.page import page

        write_text(html, page(run_plan))
        print(f"page: {html}", file=sys.stderr)

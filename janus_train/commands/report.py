"""``janus-train report``: writes a run, or a demo, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder of a run, of an evaluation, or of a demo with stage1/, stage2/, ...",
            metavar="FOLDER",
            show_default=False,
        ),
    ],
) -> None:
    """Write report.html of a run or a demo: one file with curves, results, images and answers.

    \b
    Example:
      janus-train report outputs/demo
    """
    from janus_train.report import build

    print(build(folder))

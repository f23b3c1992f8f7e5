"""``janus-train report``: a run, or a demo, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(help="A run's folder, or a demo's with stage1/, stage2/, ...")],
) -> None:
    """Write report.html of a run or a demo: one file with curves, results, pictures and answers."""
    from janus_train.report import build

    print(build(folder))

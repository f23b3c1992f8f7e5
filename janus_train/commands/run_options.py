"""What the commands that work on a run's configuration share: its options, and checks before minutes are spent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from janus_train.config import UserError

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="What train.py takes: +stage=N and key=value.", metavar="+stage=N KEY=VALUE", show_default=False
    ),
]


def check_target(path: Path) -> None:
    """Before anything is drawn: can the page be written there?"""
    if path.is_dir():
        raise UserError(f"--html {path} is a folder: name a file, for example {path / 'rows.html'}")
    if not path.parent.is_dir():
        raise UserError(f"--html {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"--html {path} cannot be written: no permission in {path.parent}")

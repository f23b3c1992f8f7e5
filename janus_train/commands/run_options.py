"""What commands share that need no model: a run's options, and a check of what they are to write before minutes are spent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from janus_train.errors import UserError

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="What train.py takes: +stage=N and key=value.", metavar="+stage=N KEY=VALUE", show_default=False
    ),
]


def check_target(path: Path, option: str = "--html", example: str = "rows.html") -> None:
    """Can a file be written there? Raises `UserError` that names the ``option``, and for a folder an ``example`` in it."""
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder: name a file, for example {path / example}")
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{option} {path} cannot be written: no permission in {path.parent}")

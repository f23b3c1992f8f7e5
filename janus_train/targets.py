"""Checks of what a command is to write, before minutes are spent on what goes into it. Nothing is written here."""

from __future__ import annotations

import os
from pathlib import Path

from janus_train.errors import UserError
from janus_train.paths import checked_path


def check_file(path: Path, option: str, example: str) -> None:
    """Raises `UserError` naming the ``option`` if no file can be written at ``path``; for a folder an ``example`` in it."""
    if checked_path(path).is_dir():
        raise UserError(f"{option} {path} is a folder: name a file, for example {path / example}")
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{option} {path} cannot be written: no permission in {path.parent}")


def check_folder(folder: Path) -> None:
    """Raises `UserError` if nothing can be written in the folder ``--out``, or if it cannot be made."""
    checked_path(folder)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"--out {folder} cannot be made: {existing} is a file")
    if not os.access(existing, os.W_OK):
        raise UserError(f"--out {folder} cannot be written: no permission in {existing}")


def check_new_folder(folder: Path) -> None:
    """As `check_folder`, for a folder that is put in its place whole: it must be new or empty."""
    check_folder(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"--out {folder} holds files already: give a new folder")
    check_folder(folder.absolute().parent)

"""Checks that a command can write its output, before minutes are spent on computing it. Writes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from janus_train.errors import UserError
from janus_train.paths import checked_path


def check_file(path: Path, option: str, example: str) -> None:
    """Raises `UserError` that names ``option`` if ``path`` cannot be written; for a folder it suggests ``example`` in it."""
    if checked_path(path).is_dir():
        raise UserError(f"{option} {path} is a folder: name a file, for example {path / example}")
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{option} {path} cannot be written: no permission in {path.parent}")


def check_folder(folder: Path) -> None:
    """Raises `UserError` if the folder ``--out`` cannot be created or written."""
    checked_path(folder)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"--out {folder} cannot be created: {existing} is a file")
    if not os.access(existing, os.W_OK):
        raise UserError(f"--out {folder} cannot be written: no permission in {existing}")


def check_new_files(folder: Path, names: Iterable[str], overwrite: bool) -> None:
    """Like `check_folder`, for files that are added to ``folder``: ``names`` must be new, unless ``overwrite``."""
    check_folder(folder)
    name = next((name for name in names if os.path.lexists(folder / name)), None)
    if name is not None and not overwrite:
        raise UserError(f"--out {folder} has {name} already: give another folder, or --overwrite")

"""The scorer's file in a task's folder: copied there by --score, and read whenever the task is scored again."""

from __future__ import annotations

from pathlib import Path

from janus_train.errors import UserError
from janus_train.files import read_regular, write_bytes

_STEM = "judgements"


def keep_judgements(file: Path, folder: Path) -> None:
    """Copies the scorer's file into the task's folder, in place of an earlier one. Raises `UserError` if it cannot be read."""
    try:
        data = read_regular(file)
    except OSError as error:
        raise UserError(f"--score {file} cannot be read: {error.strerror or error}") from None
    earlier, target = kept_judgements(folder), folder / f"{_STEM}{file.suffix}"
    write_bytes(target, data)
    if earlier is not None and earlier != target:
        earlier.unlink()


def kept_judgements(folder: Path) -> Path | None:
    """The scorer's file in the task's folder; None if there is none yet."""
    return next(iter(sorted(folder.glob(f"{_STEM}.*"))), None)

"""Where the project's own files are: configs/, data_recipes/ and the others that ``setup.py`` lists.

In a checkout (or an editable install of one) they stand beside the package. An installed package has copies of them in
its folder ``shipped``, which a checkout does not have. Both are only read: the folder may belong to somebody else.
"""

from __future__ import annotations

import os
from pathlib import Path

from janus_train.errors import UserError

MAX_PATH_BYTES, MAX_NAME_BYTES = 4095, 255
"""Linux's own limits; of a longer path the system says so in an error at whatever is done with it first."""

_PACKAGE = Path(__file__).resolve().parent
_SHIPPED = _PACKAGE / "shipped"

IS_CHECKOUT = not _SHIPPED.is_dir()
"""False in an installed package."""

ROOT = _PACKAGE.parent if IS_CHECKOUT else _SHIPPED
"""The folder that holds configs/ and data_recipes/."""

CONFIGS = ROOT / "configs"
"""The YAML files that Hydra composes."""


def resolve(path: str) -> Path:
    """``path``, or ``path`` under `ROOT` if it is relative and stands only there."""
    relative = checked_path(Path(path).expanduser())
    return relative if relative.is_absolute() or relative.exists() else ROOT / relative


def checked_path(path: Path) -> Path:
    """``path``. Raises `UserError` if it is longer than a path can be."""
    if len(os.fsencode(path)) > MAX_PATH_BYTES or any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in path.parts):
        raise UserError(f"{str(path)[:80]!r}... is longer than a path can be")
    return path

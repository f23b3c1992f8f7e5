"""Where the project's own files are: configs/, data_recipes/ and the others that ``setup.py`` lists.

In a checkout (or an editable install of one) they stand beside the package. An installed package has copies of them in
its folder ``shipped``, which a checkout does not have. Both are only read: the folder may belong to somebody else.
"""

from __future__ import annotations

from pathlib import Path

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
    relative = Path(path).expanduser()
    return relative if relative.is_absolute() or relative.exists() else ROOT / relative

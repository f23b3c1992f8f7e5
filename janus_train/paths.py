"""Where the project's own files are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The project's folder, which holds configs/ and data_recipes/."""

CONFIGS = ROOT / "configs"
"""The YAML files that Hydra composes."""


def resolve(path: str) -> Path:
    """``path``, or ``path`` under the project's folder if it is relative and stands only there."""
    relative = Path(path).expanduser()
    return relative if relative.is_absolute() or relative.exists() else ROOT / relative

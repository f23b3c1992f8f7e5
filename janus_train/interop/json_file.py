"""The small JSON files beside a model's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from janus_train.errors import UserError


def read_object(path: Path) -> dict[str, Any]:
    """Raises `UserError` for a file that cannot be read or holds no JSON object, `FileNotFoundError` for none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError):
        values = None
    if not isinstance(values, dict):
        raise UserError(f"{path} is no JSON object")
    return values


def read_object_if_any(path: Path) -> dict[str, Any]:
    """As `read_object`; nothing for a file that is not there."""
    return read_object(path) if path.is_file() else {}

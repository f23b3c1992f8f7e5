"""Encodes images as ``data:`` URIs, so that a page needs no other files."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_FILE_BYTES = 16 << 20
"""Larger files are not images that training or evaluation wrote."""


def image_uri(folder: Path, name: object) -> str | None:
    """Encodes the PNG file ``name`` of ``folder``; None if there is none.

    ``name`` may come from a file that somebody else wrote: paths that lead out of ``folder`` (an absolute
    path, ``..``, a symbolic link) are not read, nor are files that are not PNGs.
    """
    if not isinstance(name, str):
        return None
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            return None
        data = path.read_bytes()
    except (OSError, ValueError, RuntimeError):  # unreadable; a name with a null character; links in a circle
        return None
    return _uri(data) if data.startswith(PNG_SIGNATURE) else None


def pixels_uri(pixels: np.ndarray) -> str:
    """Encodes pixels uint8 (S, S, 3) as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return _uri(buffer.getvalue())


def _uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"

"""Images inside a record's text: ``data:`` URIs and base64. In: what a record says of an image. Out: the image's bytes."""

from __future__ import annotations

import base64
import re
from urllib.parse import unquote_to_bytes

from janus_train.data.image_files import MAX_FILE_BYTES, SAFE_FORMATS, ImageError, open_image

ADDRESS = re.compile(r"(?:https?|ftp)://", re.IGNORECASE)
"""How an address begins. Nothing is downloaded."""
_DATA_URI = re.compile(r"data:(?P<type>[^,;]*)(?P<options>(?:;[^,;]*)*),", re.IGNORECASE)
_MIN_BASE64 = 48
"""Characters of the base64 of the smallest image (35 bytes, a GIF of one pixel)."""
_BASE64_START = re.compile(rf"[A-Za-z0-9+/]{{{_MIN_BASE64 - 2}}}")
_MAX_BASE64 = 4 * (MAX_FILE_BYTES // 3 + 1) + 1024


def embedded_image(text: str) -> bytes | None:
    """The bytes of a ``data:`` URI or of base64; None if ``text`` is something else, such as a path.

    Base64 without ``data:`` counts only if it decodes to an image, because a path may consist of the same characters. Raises
    `ImageError` for a ``data:`` URI that is damaged or too large.
    """
    if text[:5].lower() == "data:":
        return _data_uri(text)
    if not _BASE64_START.match(text) or len(text) > _MAX_BASE64:
        return None
    try:
        data = _decode(text)
        open_image(data, SAFE_FORMATS)
    except (ValueError, ImageError):
        return None
    return data


def _data_uri(text: str) -> bytes:
    match = _DATA_URI.match(text, 0, 200)
    if match is None:
        raise ImageError("is a data: URI that has no comma before its data")
    if len(text) > _MAX_BASE64:
        raise ImageError(f"has more than {MAX_FILE_BYTES // 10**6} MB")
    content = text[match.end() :]
    if ";base64" not in match["options"].lower():
        return unquote_to_bytes(content)
    try:
        return _decode(content)
    except ValueError:
        raise ImageError("is a data: URI whose base64 is damaged") from None


def _decode(text: str) -> bytes:
    """Raises `ValueError` for what is not base64. Line breaks in it do not matter."""
    return base64.b64decode("".join(text.split()), validate=True)

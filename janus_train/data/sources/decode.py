"""Bytes to the parts of a record: fields, images, cached codes. Bytes that cannot be used raise `BadSample`.

Images are opened from memory, with an explicit list of formats, and decoded when they are first used; their size is
known from the header. No pickle is opened and nothing is downloaded.
"""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from PIL import Image

from janus_train.data.image_files import SAFE_FORMATS, ImageError, open_image
from janus_train.data.types import BadSample
from janus_train.jsonl import LineError, parse_line

SHARD_FORMATS = ("JPEG", "PNG", "WEBP")
"""The formats of images in shards (Pillow's names)."""
FOLDER_FORMATS = SAFE_FORMATS
"""The formats of images in files of their own, or in a data set's column."""


def fields_of(data: bytes, key: str) -> dict[str, Any]:
    """The JSON object in ``data``, with or without a byte order mark."""
    try:
        fields = parse_line(data)
        if b"\\u" in data:
            json.dumps(fields, ensure_ascii=False).encode()  # fails for an escaped half of a surrogate pair
    except (LineError, UnicodeEncodeError, RecursionError) as error:
        raise BadSample(f"its JSON cannot be read ({error})", key=key) from None
    if not isinstance(fields, dict):
        raise BadSample("its JSON is not an object", key=key)
    return fields


def caption_of(data: bytes, key: str) -> dict[str, Any]:
    """A text file as a caption."""
    try:
        return {"caption": data.decode("utf-8-sig").strip()}
    except ValueError as error:
        raise BadSample(f"its text cannot be read ({error})", key=key) from None


def image_of(data: bytes, formats: tuple[str, ...], key: str, name: str = "its image") -> Image.Image:
    """The image in ``data``, not yet decoded."""
    try:
        return open_image(data, formats)
    except ImageError as error:
        raise BadSample(f"{name} {error}", key=key) from None


def codes_of(data: bytes, key: str) -> np.ndarray:
    """Cached codes of an image, int64 (P,)."""
    try:
        codes = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # numpy's header is Python text: its parser's errors are many
        raise BadSample(f"its cached codes cannot be read ({error})", key=key) from None
    if not isinstance(codes, np.ndarray) or codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise BadSample("its cached codes are not a list of integers", key=key)
    return codes.astype(np.int64)

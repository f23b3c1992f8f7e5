"""Prepares an image's bytes for a shard: kept if training can read them, otherwise converted without loss."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

from PIL import Image

from janus_train.data.image_files import MAX_PIXELS, DecoderMissing, ImageError, ImageTooLarge, load_image, open_image
from janus_train.data.images import to_rgb, upright
from janus_train.data.types import BadSample
from janus_train.datatools.prepare.items import SkipRecord

KEPT_FORMATS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""Pillow's format -> ending, for formats whose bytes are kept. An MPO is a JPEG followed by further ones."""
_AS_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_QUALITY = 95


def keep(data: bytes, max_side: int | None = None) -> tuple[str, bytes]:
    """(ending, bytes) of an image in a shard. Raises `SkipRecord` if it cannot be decoded completely or is too large.

    With ``max_side`` an image with a longer side is scaled down to it and encoded as JPEG.
    """
    if not data:
        raise SkipRecord("the image is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes, damaged EXIF and the like; real errors raise
            return _keep(data, max_side)
    except ImageTooLarge as error:
        raise SkipRecord(f"the image has over {MAX_PIXELS // 10**6} megapixels", str(error)) from None
    except DecoderMissing as error:
        raise SkipRecord(f"the image needs {error.remedy}", str(error)) from None
    except ImageError as error:
        raise SkipRecord("the image does not open", str(error)) from None
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        TypeError,
        IndexError,
        KeyError,
        struct.error,
        zlib.error,
    ) as error:
        # errors of later steps on a damaged file
        raise SkipRecord("the image does not open", f"{type(error).__name__}: {error}") from None


def _keep(data: bytes, max_side: int | None) -> tuple[str, bytes]:
    image = open_image(data)
    width, height = image.size
    if max_side is not None and max(width, height) > max_side:
        return "jpg", _smaller(image, max_side)
    ending = KEPT_FORMATS.get(image.format or "")
    if ending is None:
        return "png", _png(image)
    if ending == "jpg":
        image.draft(None, (1, 1))  # all bytes are still read, at an eighth of the pixels
    load_image(image)
    return ending, data


def _png(image: Image.Image) -> bytes:
    """Encode the file's first image as PNG: upright, and with all its levels if PNG has them."""
    load_image(image)
    image = upright(image)
    if image.mode not in _AS_PNG:
        image = _rgb(image)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _smaller(image: Image.Image, max_side: int) -> bytes:
    image = _rgb(image)
    scale = max_side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    out = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=_QUALITY, subsampling=0)
    return out.getvalue()


def _rgb(image: Image.Image) -> Image.Image:
    """The image as training sees it: upright, on white, 8 bits."""
    try:
        return to_rgb(image)
    except BadSample as error:
        raise SkipRecord("the image does not open", str(error)) from None

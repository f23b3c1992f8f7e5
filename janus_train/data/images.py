"""Images to pixels: conversion to RGB, resizing for each of the two encoders, and conversion to floats.

In: a Pillow image, for example from `image_files.open_image`. Out: uint8 arrays (S, S, 3), which are small enough to
travel between processes; `to_float` turns them into the encoders' input. The encoders need different pixels: the
understanding encoder sees the complete image padded with grey, the generation encoder sees the middle without a border.
Codes of padded images would teach the model to generate grey borders.
"""

from __future__ import annotations

import struct

import numpy as np
from einops import rearrange
from PIL import Image

from janus_train.data.image_files import MAX_EXIF_BYTES, ImageError, load_image
from janus_train.data.types import BadSample

BACKGROUND = 127
"""The grey of the understanding image's border, in each channel (official: ``int(255 * 0.5)``)."""
MIN_SIDE = 14
"""The official processor never makes the short side smaller than this."""
REDUCED_TO = 2
"""A JPEG decoded at reduced scale keeps at least this many times the final number of pixels along each side."""
MAX_ASPECT = 8
"""A generation image of a larger aspect ratio is cut before resizing: its ends would be cropped away anyway."""
_LEVELS = (np.arange(256, dtype=np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
"""The float of each of the 256 levels, in the official order of operations."""
_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> how to make the image upright. `ImageOps.exif_transpose` would also rewrite the EXIF data."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB and turn upright (EXIF); transparency over white, 16 bits scaled to 8, an animation's first frame.

    Raises `BadSample` if it cannot be decoded or is too large.
    """
    try:
        load_image(image)  # here and not when resizing, because an image that cannot be decoded is a bad sample
        return _to_rgb(image)
    except ImageError as error:
        raise BadSample(f"its image {error}") from None
    except Exception as error:  # decoders of foreign bytes raise whatever their parts raise
        raise BadSample(f"its image cannot be decoded ({error})") from None


def upright(image: Image.Image) -> Image.Image:
    """Turn a decoded image as its EXIF data says."""
    turn = _TURNS.get(_orientation(image))  # 1 for a TIFF: loading has turned it
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    image = upright(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return _wide_to_8_bits(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        if image.mode == "La":  # premultiplied: Pillow converts it to LA alone
            image = image.convert("LA")
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) if there is none, or if the EXIF data is damaged or far too long.

    Damaged EXIF data does not mean that the pixels are damaged.
    """
    if len(image.info.get("exif") or b"") > MAX_EXIF_BYTES:
        return 1
    if len(image.info.get("Raw profile type exif") or "") > 2 * MAX_EXIF_BYTES:  # hexadecimal
        return 1
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return 1
    return orientation if isinstance(orientation, int) else 1


def _wide_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale grey images of more than 8 bits. Pillow's own conversion would clip at 255 and leave them white.

    Mode I (32 bits) contains 16-bit values in some Pillow versions and 8-bit values in others, mode F 0..1 or 0..255:
    the largest value decides.
    """
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    transparent_value = image.info.get("transparency")  # of a 16-bit PNG: one grey value
    is_transparent = values == transparent_value if isinstance(transparent_value, int) else None
    largest = values.max(initial=0.0)
    if image.mode.startswith("I;16") or (image.mode == "I" and largest > 255):
        values = values / 257.0  # 65535 -> 255
    elif image.mode == "F" and largest <= 1.0:
        values = values * 255.0
    if is_transparent is not None:
        values[is_transparent] = 255.0  # white, like all transparency
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def understanding_pixels(image: Image.Image, size: int, *, reduced: bool = False) -> np.ndarray:
    """Resize the long side to ``size`` and pad with grey: uint8 (S, S, 3), exactly as the official processor does.

    The short side is truncated like there; transformers' own processor rounds, which can differ by a row of pixels.
    ``reduced`` (``data.jpeg=reduced``): a JPEG of at least four times ``size`` is decoded at a half, a quarter or an
    eighth, still at least twice too large. That is several times faster and changes pixels by one or two of 255
    (benchmarks/data.md). It does not exist for images to generate, because their codes are targets.
    """
    box = _reduce(image, REDUCED_TO * size) if reduced else None
    return padded_square(to_rgb(image), size, box=box)


def padded_square(
    image: Image.Image,
    size: int,
    *,
    box: tuple[float, float, float, float] | None = None,
    min_side: int = MIN_SIDE,
    background: int | tuple[int, ...] = BACKGROUND,
) -> np.ndarray:
    """`understanding_pixels` of an image that is RGB and upright. ``box``: the area of it that is taken; None: all of it."""
    full = box[2:] if box else image.size
    longest = max(full)
    width, height = (max(int(side / longest * size), min_side) for side in full)
    image = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    if width == height:
        return np.asarray(image)
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    square = np.empty((side, side, 3), np.uint8)
    square[:top] = square[top + height :] = background
    square[:, :left] = square[:, left + width :] = background
    square[top : top + height, left : left + width] = np.asarray(image)
    return square


def _reduce(image: Image.Image, min_side: int) -> tuple[float, float, float, float] | None:
    """Ask the JPEG decoder for fewer pixels, at least ``min_side`` on the long side; returns the area of the image.

    None if the image is not reduced: it has another format, is too small, or is rotated by its EXIF data.
    """
    scale = max(image.size) // min_side
    if image.format != "JPEG" or scale < 2 or _orientation(image) != 1:
        return None
    draft = image.draft(None, (image.width // scale, image.height // scale))
    return draft[1] if draft else None


def generation_pixels(image: Image.Image, size: int) -> np.ndarray:
    """Resize the short side to ``size`` and crop the long side to its middle: uint8 (S, S, 3) (Janus, 4.1).

    The papers give no code for it: the long side is truncated and the crop is centred like torchvision's Resize and
    CenterCrop.
    """
    image = _limit_aspect(to_rgb(image))
    shortest = min(image.size)
    width, height = (size if side == shortest else int(size * side / shortest) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _limit_aspect(image: Image.Image) -> Image.Image:
    """Crop a very long image to its middle, so that a 20,000 x 10 banner is not first resized to 768,000 x 384."""
    width, height = image.size
    longest = MAX_ASPECT * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))


def to_float(pixels: np.ndarray) -> np.ndarray:
    """uint8 (S, S, 3) -> float32 (3, S, S) in -1..1 (official mean and standard deviation: 0.5)."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels must be uint8 (S, S, 3), got {pixels.dtype} {pixels.shape}")
    return _LEVELS[rearrange(pixels, "height width channel -> channel height width")]

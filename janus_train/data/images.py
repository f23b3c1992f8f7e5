"""Images to pixels: one way in (`to_rgb`), one recipe for each of the two encoders, one step to floats.

What `image_files.open_image` gives, or any other image of Pillow's, goes in; uint8 arrays (S, S, 3) come out, small enough to travel between processes.
`to_float` makes what the encoders take. The two recipes differ: the understanding encoder sees the
whole image on grey, the generation encoder sees the middle of it without a border. Codes made from the padded image would
teach the model to draw grey borders.
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
"""A JPEG decoded at reduced scale keeps at least so many times the pixels that are wanted, along each side."""
MAX_ASPECT = 8
"""A generation image longer than this is cut before resizing: the ends would be cropped away anyway."""
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
"""EXIF orientation -> what makes the image upright. `ImageOps.exif_transpose` would also write the EXIF data anew."""


def to_rgb(image: Image.Image) -> Image.Image:
    """``image`` as RGB and upright (EXIF); transparency over white, 16 bits scaled to 8, an animation's first frame.

    Raises `BadSample` if it cannot be decoded or is too large.
    """
    try:
        load_image(image)  # here and not when it is resized: what cannot be decoded is a bad sample
        return _to_rgb(image)
    except ImageError as error:
        raise BadSample(f"its image {error}") from None
    except Exception as error:  # decoders of foreign bytes raise whatever their parts raise
        raise BadSample(f"its image cannot be decoded ({error})") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(_orientation(image))  # 1 for a TIFF: loading has turned it
    if turn is not None:
        image = image.transpose(turn)
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
    """The EXIF orientation; 1 (upright) without one.

    The same where the EXIF data is damaged or far too long, which says nothing of the pixels.
    """
    if len(image.info.get("exif") or b"") > MAX_EXIF_BYTES:
        return 1
    if len(image.info.get("Raw profile type exif") or "") > 2 * MAX_EXIF_BYTES:  # hexadecimal
        return 1
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return 1
    return found if isinstance(found, int) else 1


def _wide_to_8_bits(image: Image.Image) -> Image.Image:
    """Grey images of more than 8 bits. Pillow's own conversion would clip at 255 and leave them white.

    Mode I (32 bits) holds 16-bit files in some Pillow versions and 8-bit values in others, mode F 0..1 or 0..255:
    the largest value tells.
    """
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    transparent = image.info.get("transparency")  # of a 16-bit PNG: one grey value
    hidden = values == transparent if isinstance(transparent, int) else None
    largest = values.max(initial=0.0)
    if image.mode.startswith("I;16") or (image.mode == "I" and largest > 255):
        values = values / 257.0  # 65535 -> 255
    elif image.mode == "F" and largest <= 1.0:
        values = values * 255.0
    if hidden is not None:
        values[hidden] = 255.0  # white, as behind any transparency
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def understanding_pixels(image: Image.Image, size: int, *, reduced: bool = False) -> np.ndarray:
    """Long side to ``size``, the rest grey: uint8 (S, S, 3), exactly as the official processor does it.

    The short side is truncated, as the official processor does it; transformers' own rounds, and can differ by a row of pixels. ``reduced``: a JPEG of at least four times ``size`` is decoded at
    a half, a quarter or an eighth, still at least twice too large: several times faster, pixels off by one or two of 255
    (benchmarks/data.md): ``data.jpeg=reduced``. Images to draw have no such way: their codes are targets.
    """
    box = _reduce(image, REDUCED_TO * size) if reduced else None
    image = to_rgb(image)
    full = box[2:] if box else image.size
    longest = max(full)
    width, height = (max(int(side / longest * size), MIN_SIDE) for side in full)
    image = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    if width == height:
        return np.asarray(image)
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    square = np.empty((side, side, 3), np.uint8)
    square[:top] = square[top + height :] = BACKGROUND
    square[:, :left] = square[:, left + width :] = BACKGROUND
    square[top : top + height, left : left + width] = np.asarray(image)
    return square


def _reduce(image: Image.Image, least: int) -> tuple[float, float, float, float] | None:
    """Ask the JPEG decoder for fewer pixels, ``least`` on the long side or more; the area that the image then covers.

    None if it comes as it is: another format, too small already, or turned by its EXIF data.
    """
    scale = max(image.size) // least
    if image.format != "JPEG" or scale < 2 or _orientation(image) != 1:
        return None
    drafted = image.draft(None, (image.width // scale, image.height // scale))
    return drafted[1] if drafted else None


def generation_pixels(image: Image.Image, size: int) -> np.ndarray:
    """Short side to ``size``, long side cropped to its middle: uint8 (S, S, 3) (Janus, 4.1).

    The papers give no code for it: the long side is truncated and the crop centred as torchvision's Resize and
    CenterCrop do.
    """
    image = _limit_aspect(to_rgb(image))
    shortest = min(image.size)
    width, height = (size if side == shortest else int(size * side / shortest) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _limit_aspect(image: Image.Image) -> Image.Image:
    """The middle of a very long image, so that a 20,000 x 10 banner does not become 768,000 x 384 first."""
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

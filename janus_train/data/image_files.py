"""The one way in for image files: a path or bytes in, a Pillow image out, within limits (`open_image`, `load_image`).

An image may come from anybody, so what opens it takes a short list of formats (Pillow knows others that start programs:
PostScript runs Ghostscript), regular files only (a pipe would never end), and so many bytes, pixels and seconds at most.
A linter's rule keeps ``Image.open`` out of every other module.
"""

from __future__ import annotations

import io
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageFile

from janus_train.files import NotRegularError, open_regular

SAFE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""All that may be opened anywhere (Pillow's names); the list is short because every decoder is a risk."""
MAX_PIXELS = 100_000_000
"""A larger image is refused by what its header says: some hundred bytes can ask for gigabytes."""
MAX_SIDE = 65_535
"""JPEG's own limit. A run-length-coded BMP may skip 255 rows in two bytes, which costs their width in memory."""
MAX_FILE_BYTES = 4 * MAX_PIXELS + (1 << 20)
"""The largest image without compression, as RGBA of 8 bits, and room for what stands around it."""
MAX_DECODE_S = 20.0
"""CPU time for the header, and again for the pixels. The largest images take 1 to 5 s; a JPEG of thousands of scans, or a
GIF with a comment of many megabytes, would take minutes to hours."""
MAX_EXIF_BYTES = 1 << 17
"""Entries of EXIF data may all point at the same bytes, each with a copy of its own: 128 KiB can become 350 MB."""
WHAT_TO_GIVE = "give a JPEG, PNG or WebP of at most 100 megapixels"
"""For the end of messages to people."""
_TOO_MANY_BYTES = f"has more than {MAX_FILE_BYTES // 10**6} MB"
_NOT_REGULAR = "is a device or a pipe, not a regular file"
_SPARE_BYTES = 16 << 20
_PROGRESSIVE_BLOCK = 1 << 12
"""Bytes that a progressive JPEG is decoded by: each scan, of a hundred bytes, may pass over all pixels."""
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF tags

# `MAX_PIXELS` is the rule here. Pillow's warning at 89 megapixels would stand beside the one line that says so.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class ImageError(Exception):
    """Why a file is not taken as an image, as the end of a sentence: "has 20000 x 20000 pixels, ..."."""


class ImageTooLarge(ImageError):
    """It has too many pixels."""


def open_image(source: bytes | Path, formats: Sequence[str] = SAFE_FORMATS) -> Image.Image:
    """The image in a file or in its bytes; only its header is read, `load_image` decodes it.

    Raises:
        ImageError: it is no image of ``formats``, larger than the limits, damaged, or no regular file.
        OSError: the file cannot be read.
    """
    assert set(formats) <= set(SAFE_FORMATS), formats
    data = read_image_file(source) if isinstance(source, Path) else source
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(_TOO_MANY_BYTES)
    file = _LimitedFile(data)
    try:
        with file.limited():
            image = Image.open(file, formats=tuple(formats))  # noqa: TID251 - the one place
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        raise ImageError(f"is not an image of the formats {', '.join(formats)}") from None
    except Image.DecompressionBombError:
        raise ImageTooLarge(f"cannot be read (more than {MAX_PIXELS:,} pixels)") from None
    except Exception as error:  # decoders of foreign bytes raise whatever their parts raise
        raise ImageError(f"cannot be read ({_one_line(error)})") from None
    check_size(image)
    return image


def load_image(image: Image.Image) -> None:
    """Decodes ``image`` in place, an animation's first frame. Raises `ImageError` if it cannot be, or takes too long."""
    check_size(image)
    try:
        with _limits_of(image):
            if image.tell():
                image.seek(0)
            if image.info.get("progressive") and isinstance(image, ImageFile.ImageFile):
                image.decodermaxblock = _PROGRESSIVE_BLOCK
            image.load()
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"cannot be decoded ({_one_line(error)})") from None


def check_size(image: Image.Image) -> None:
    """Raises `ImageTooLarge` by what the header says: nothing is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageTooLarge(f"has {width} x {height} pixels, at most {MAX_PIXELS:,} are taken")
    if max(width, height) > MAX_SIDE:
        raise ImageTooLarge(f"has {width} x {height} pixels, at most {MAX_SIDE:,} along a side are taken")
    tags = getattr(image, "tag_v2", None)
    if image.format == "TIFF" and tags is not None:  # its decoder makes room for a whole tile, however small the image
        tile = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)
        if not all(isinstance(side, int) for side in tile) or tile[0] * tile[1] > MAX_PIXELS:
            raise ImageTooLarge(f"has tiles of {tile[0]} x {tile[1]} pixels, at most {MAX_PIXELS:,} are taken")


def read_image_file(path: Path) -> bytes:
    """The file's bytes. Raises `ImageError` if it is no regular file or too large, `OSError` if it cannot be read."""
    try:
        file = open_regular(path)
    except NotRegularError:
        raise ImageError(_NOT_REGULAR) from None
    with file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_FILE_BYTES:
            raise ImageError(_TOO_MANY_BYTES)
        return file.read(size)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _limits_of(image: Image.Image) -> Iterator[None]:
    file = getattr(image, "fp", None)
    if isinstance(file, _LimitedFile):
        with file.limited():
            yield
    else:  # made in memory, or decoded already
        yield


class _LimitedFile(io.BytesIO):
    """Bytes that a decoder may read only for so long, and so often.

    Decoders are C code that nothing interrupts, but they ask for their input piece by piece: that is where one ends that
    has taken too long. How much they read is limited too: the tags of a TIFF may all point at the same megabytes.
    """

    def __init__(self, data: bytes):
        super().__init__(data)
        self._size = len(data)
        self._left = 0
        self._deadline: float | None = None

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Within it the limits hold, in CPU time of this thread, so that a busy machine makes no image a bad one."""
        self._deadline = time.thread_time() + MAX_DECODE_S
        self._left = 2 * self._size + _SPARE_BYTES
        try:
            yield
        finally:
            self._deadline = None

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self._deadline is not None:
            self._left -= len(data)
            if time.thread_time() > self._deadline:
                raise ImageError(f"takes more than {MAX_DECODE_S:.0f} s to decode")
            if self._left < 0:
                raise ImageError("refers to the same bytes again and again")
        return data

"""Opens every image file of the project: a path or bytes in, a Pillow image out (`open_image`, `load_image`).

Image files are not trusted. So only a short list of formats is allowed (Pillow knows others that start programs:
PostScript runs Ghostscript), only regular files (a pipe would never end), and the numbers of bytes, pixels and seconds
are limited. A linter's rule forbids ``Image.open`` in every other module.
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

from janus_train.files import LFS_POINTER, NotRegularError, is_lfs_pointer, open_regular

SAFE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""The formats that may be opened (Pillow's names); the list is short because every decoder is a risk."""
MAX_PIXELS = 100_000_000
"""A larger image is refused by the size in its header: a file of a few hundred bytes can ask for gigabytes."""
MAX_SIDE = 65_535
"""JPEG's own limit. A run-length-coded BMP may skip 255 rows in two bytes, which costs their width in memory."""
MAX_FILE_BYTES = 4 * MAX_PIXELS + (1 << 20)
"""The largest image without compression, as RGBA of 8 bits, and room for headers."""
MAX_DECODE_S = 20.0
"""Limit of CPU time for the header, and again for the pixels. The largest images take 1 to 5 s; a JPEG with thousands of
scans, or a GIF with a comment of many megabytes, would take minutes to hours."""
MAX_EXIF_BYTES = 1 << 17
"""Entries of EXIF data may all point to the same bytes, and each gets its own copy: 128 KiB can become 350 MB."""
WHAT_TO_GIVE = "give a JPEG, PNG or WebP of at most 100 megapixels"
"""The remedy at the end of error messages."""
_TOO_MANY_BYTES = f"has more than {MAX_FILE_BYTES // 10**6} MB"
_NOT_REGULAR = "is a device or a pipe, not a regular file"
_SPARE_BYTES = 16 << 20
_PROGRESSIVE_BLOCK = 1 << 12
"""Bytes per read of a progressive JPEG: each scan, of a hundred bytes, may pass over all pixels."""
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF tags

# `MAX_PIXELS` is the rule here; Pillow's own warning at 89 megapixels would be a second message about it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class ImageError(Exception):
    """A file is refused as an image. The message ends a sentence: "has 20000 x 20000 pixels, ..."."""


class ImageTooLarge(ImageError):
    """The image has too many pixels."""


def open_image(source: bytes | Path, formats: Sequence[str] = SAFE_FORMATS) -> Image.Image:
    """Open an image from a file or from its bytes. Only the header is read; `load_image` decodes the image.

    Raises:
        ImageError: it is not an image of ``formats``, exceeds the limits, is damaged, or is not a regular file.
        OSError: the file cannot be read.
    """
    assert set(formats) <= set(SAFE_FORMATS), formats
    data = read_image_file(source) if isinstance(source, Path) else source
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(_TOO_MANY_BYTES)
    if is_lfs_pointer(data):
        raise ImageError(LFS_POINTER)
    file = _LimitedFile(data)
    try:
        with file.limits():
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
    """Decode ``image`` in place (of an animation the first frame). Raises `ImageError` if that fails or takes too long."""
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
    """Raise `ImageTooLarge` if the size in the header exceeds the limits. Nothing is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageTooLarge(f"has {width} x {height} pixels, at most {MAX_PIXELS:,} are taken")
    if max(width, height) > MAX_SIDE:
        raise ImageTooLarge(f"has {width} x {height} pixels, at most {MAX_SIDE:,} along a side are taken")
    tags = getattr(image, "tag_v2", None)
    if image.format == "TIFF" and tags is not None:  # its decoder allocates a full tile, however small the image
        tile = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)
        if not all(isinstance(side, int) for side in tile) or tile[0] * tile[1] > MAX_PIXELS:
            raise ImageTooLarge(f"has tiles of {tile[0]} x {tile[1]} pixels, at most {MAX_PIXELS:,} are taken")


def read_image_file(path: Path) -> bytes:
    """Read a file. Raises `ImageError` if it is not a regular file or is too large, `OSError` if it cannot be read."""
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
        with file.limits():
            yield
    else:  # created in memory, or already decoded
        yield


class _LimitedFile(io.BytesIO):
    """A file in memory that limits how long a decoder may read it, and how many bytes in total.

    Decoders are C code that cannot be interrupted, but they ask for their input piece by piece, so a read ends one that
    takes too long. The total is limited because the tags of a TIFF may all point to the same megabytes.
    """

    def __init__(self, data: bytes):
        super().__init__(data)
        self._size = len(data)
        self._bytes_left = 0
        self._deadline: float | None = None

    @contextmanager
    def limits(self) -> Iterator[None]:
        """Apply the limits inside the context. Time is CPU time of this thread, so a busy machine fails no image."""
        self._deadline = time.thread_time() + MAX_DECODE_S
        self._bytes_left = 2 * self._size + _SPARE_BYTES
        try:
            yield
        finally:
            self._deadline = None

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self._deadline is not None:
            self._bytes_left -= len(data)
            if time.thread_time() > self._deadline:
                raise ImageError(f"takes more than {MAX_DECODE_S:.0f} s to decode")
            if self._bytes_left < 0:
                raise ImageError("refers to the same bytes again and again")
        return data

"""Opens every image file of the project: a path or bytes in, a Pillow image out (`open_image`, `load_image`).
Writes PNGs (`write_png`).

Image files are not trusted. So only a short list of formats is allowed (Pillow knows others that start programs:
PostScript runs Ghostscript), only regular files (a pipe would never end), and the numbers of bytes, pixels and seconds
are limited. A linter's rule forbids ``Image.open`` in every other module.

AVIF and HEIC need a decoder that is not on every machine. `SAFE_FORMATS` and `IMAGE_ENDINGS` are what can be read here, and
`missing_decoder` says of a name what to install.
"""

from __future__ import annotations

import io
import os
import struct
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageFile, features

from janus_train.files import LFS_POINTER, NotRegularError, is_lfs_pointer, open_regular, write_bytes

_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
}
"""The formats that may be opened (Pillow's names), with the endings of their files; the list is short because every decoder
is a risk."""
_INSTALL = {"AVIF": "pip install 'pillow>=11.3'", "HEIF": "pip install pillow-heif"}
"""The formats that not every installation can read, and what brings them."""
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "HEIF"
)
"""What stands in the first box of such a file."""


def _has_avif() -> bool:
    if "avif" not in features.modules or not features.check("avif"):
        return False
    from PIL import AvifImagePlugin

    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # images are already decoded in as many processes as there are cores
    return True


def _has_heif() -> bool:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener(decode_threads=1)
    return True


_UNREADABLE = {name for name, is_readable in (("AVIF", _has_avif()), ("HEIF", _has_heif())) if not is_readable}
SAFE_FORMATS = tuple(name for name in _ENDINGS if name not in _UNREADABLE)
"""The formats that are opened on this machine (Pillow's names)."""
IMAGE_ENDINGS = tuple(ending for name in SAFE_FORMATS for ending in _ENDINGS[name])
"""The endings of the files of `SAFE_FORMATS`, in lower case."""
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


class DecoderMissing(ImageError):
    """The image's format cannot be read on this machine. ``remedy``: what to install."""

    def __init__(self, format_: str):
        self.remedy = _INSTALL[format_]
        super().__init__(f"is an image of the format {format_}, which needs {self.remedy}")


def has_image_ending(name: str) -> bool:
    """Whether a file of this name is taken for an image that can be read here."""
    return name.lower().endswith(IMAGE_ENDINGS)


def missing_decoder(ending: str) -> str | None:
    """What to install for files with this ending (``.heic``); None if that is not what they lack."""
    return next((_INSTALL[name] for name in sorted(_UNREADABLE) if ending.lower() in _ENDINGS[name]), None)


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
    is_avif_or_heif = data[4:8] == b"ftyp"
    file = _LimitedFile(_without_exif(data) if is_avif_or_heif else data)
    try:
        with file.limits():
            image = Image.open(file, formats=tuple(formats))  # noqa: TID251 - the one place
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        brands = [data[place : place + 4] for place in range(8, 48, 4)] if is_avif_or_heif else []
        format_ = next((_BRANDS[brand] for brand in brands if brand in _BRANDS), "")
        if format_ in _UNREADABLE:
            raise DecoderMissing(format_) from None
        raise ImageError(f"is not an image of the formats {', '.join(formats)}") from None
    except Image.DecompressionBombError:
        raise ImageTooLarge(f"cannot be read (more than {MAX_PIXELS:,} pixels)") from None
    except Exception as error:  # decoders of foreign bytes raise whatever their parts raise
        raise ImageError(f"cannot be read ({_one_line(error)})") from None
    if is_avif_or_heif:
        image.info.pop("xmp", None)  # its orientation does not count either
    check_size(image)
    return image


def _without_exif(data: bytes) -> bytes:
    """An AVIF or HEIC file without its EXIF data: the type of the items with it is renamed.

    Opening such a file reads all its EXIF data, whose entries may multiply it (`MAX_EXIF_BYTES`). Nothing is lost: in these
    formats the orientation that counts stands outside of it. The boxes that list the items are searched, not the pixels.
    """
    place, boxes = 0, []
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        if size == 1 and place + 16 <= len(data):
            [size] = struct.unpack_from(">Q", data, place + 8)
        end = min(len(data), place + size) if size else len(data)
        if end < place + 8:
            break
        box = data[place:end]
        boxes.append(box.replace(b"Exif", b"none") if kind in (b"meta", b"moov") else box)
        place = end
    return b"".join(boxes) + data[place:]


def load_image(image: Image.Image) -> None:
    """Decode ``image`` in place (of an animation the first frame). Raises `ImageError` if that fails or takes too long."""
    check_size(image)
    try:
        with _limits_of(image):
            if image.tell() and image.format != "HEIF":  # which opens at its main image, wherever that stands
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
    takes too long. The total is limited because the tags of a TIFF may all point to the same megabytes. AVIF and HEIC are
    decoded after one read, so there the pixels are the limit: 36 megapixels of noise as AVIF take 3.3 s of CPU time.
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


def write_png(path: Path, image: Image.Image) -> None:
    """Writes the image atomically; its folder is made, but none above it: what was deleted during a run stays deleted."""
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())

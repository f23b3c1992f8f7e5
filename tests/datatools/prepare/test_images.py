"""Images keep their bytes if training can read them; everything else becomes a PNG of the same pixels, or is refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from janus_train.data.images import to_rgb
from janus_train.datatools.prepare.images import keep
from janus_train.datatools.prepare.inputs import read_file
from janus_train.datatools.prepare.items import SkipRecord
from tests.datatools.prepare.making import image_bytes
from tests.hostile_images import HOSTILE, hostile_file, nothing_runs

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def save_image(image, form, **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@pytest.mark.parametrize(("form", "ending"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("MPO", "jpg")])
def test_kept_byte_for_byte(form, ending):
    data = image_bytes(1, form)
    assert keep(data) == (ending, data)


def test_a_cmyk_jpeg_is_a_jpeg():
    data = save_image(Image.fromarray(PIXELS).convert("CMYK"), "JPEG")
    assert keep(data) == ("jpg", data)


SIXTEEN = Image.fromarray(np.arange(24 * 16, dtype=np.uint16).reshape(16, 24) * 170)
OTHER_FORMATS = {
    "bmp": (Image.fromarray(PIXELS), "BMP"),
    "tiff": (Image.fromarray(PIXELS), "TIFF"),
    "grey tiff": (Image.fromarray(PIXELS).convert("L"), "TIFF"),
    "16-bit tiff": (SIXTEEN, "TIFF"),
    "tiff with alpha": (Image.fromarray(PIXELS).convert("RGBA"), "TIFF"),
    "black and white": (Image.fromarray(PIXELS).convert("1"), "BMP"),
    "gif": (Image.fromarray(PIXELS).convert("P"), "GIF"),
    "cmyk tiff": (Image.fromarray(PIXELS).convert("CMYK"), "TIFF"),
    "float tiff": (Image.fromarray(PIXELS[..., 0].astype(np.float32) / 255), "TIFF"),
    "ppm": (Image.fromarray(PIXELS), "PPM"),
}


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_others_become_png_without_loss(name):
    image, form = OTHER_FORMATS[name]
    data = save_image(image, form)
    ending, kept_data = keep(data)
    assert ending == "png"
    with Image.open(io.BytesIO(data)) as original, Image.open(io.BytesIO(kept_data)) as copy:
        assert copy.format == "PNG"
        if image.mode == "I;16":
            assert np.array_equal(np.asarray(original), np.asarray(copy)), "all 16 bits"
        assert np.array_equal(np.asarray(to_rgb(original)), np.asarray(to_rgb(copy)))
    assert keep(data) == (ending, kept_data), "the same bytes each time"


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(keep(out.getvalue())[1])) as kept_data:
        assert to_rgb(kept_data).getpixel((0, 0)) == (255, 0, 0)


def test_scaled_down_if_asked():
    data = image_bytes(1, "PNG", size=(100, 50))
    assert keep(data, 100) == ("png", data), "small enough"
    ending, kept_data = keep(data, 40)
    with Image.open(io.BytesIO(kept_data)) as image:
        assert (ending, image.format, image.size) == ("jpg", "JPEG", (40, 20))
    turned_data = save_image(
        Image.new("RGB", (100, 50)),
        "JPEG",
        exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
    )
    with Image.open(io.BytesIO(keep(turned_data, 40)[1])) as image:
        assert image.size == (20, 40), "upright: the camera's turn is in the pixels now"


def huge_png():
    """A header that promises 20,000 x 20,000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the image is empty"),
        (b"<html>404</html>", "the image does not open"),
        (image_bytes(1)[:-40], "the image does not open"),
        (image_bytes(1, "PNG", size=(64, 64))[:-900], "the image does not open"),
        (image_bytes(1, "WEBP")[:-40], "the image does not open"),
        (huge_png(), "the image has over 100 megapixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "the image does not open"),
    ],
    ids=["empty", "page", "cut jpeg", "cut png", "cut webp", "huge", "postscript"],
)
def test_refused_with_the_reason(data, reason):
    with pytest.raises(SkipRecord) as caught:
        keep(data)
    assert caught.value.reason == reason


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_skipped(kind, tmp_path):
    path = hostile_file(kind, tmp_path)
    with nothing_runs(tmp_path), pytest.raises(SkipRecord) as caught:
        keep(read_file(str(path)))
    reasons = {"bomb": "the image has over 100 megapixels", "pipe": "the image is not a regular file that can be read"}
    assert caught.value.reason == reasons.get(kind, "the image does not open")
    assert "\n" not in caught.value.detail


def test_a_tiff_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(io.BytesIO(keep(save_image(Image.fromarray(PIXELS), "TIFF", exif=exif))[1])) as kept_data:
        assert np.array_equal(np.asarray(kept_data), np.rot90(PIXELS, -1)) and not kept_data.getexif()

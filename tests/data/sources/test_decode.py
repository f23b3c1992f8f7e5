"""Bytes to parts of a record: what is read, and what makes a sample bad."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from janus_train.data.image_files import MAX_PIXELS
from janus_train.data.images import to_rgb
from janus_train.data.sources.decode import (
    FOLDER_FORMATS,
    SHARD_FORMATS,
    caption_of,
    codes_of,
    fields_of,
    image_of,
)
from janus_train.data.types import BadSample
from tests.helpers import encoded

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def png(width: int, height: int, depth: int, colour: int, rows: list[bytes], extra: bytes = b"") -> bytes:
    """A PNG as its specification has it, also such as Pillow does not write."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = _chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + extra + data + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def open_bytes(data: bytes) -> Image.Image:
    return image_of(data, FOLDER_FORMATS, "k")


# ------------------------------------------------------------------------------------------------------------ JSON, text


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")) | st.integers()))
def test_fields_come_back(fields: dict[str, object]) -> None:
    for ascii_only in (True, False):
        assert fields_of(json.dumps(fields, ensure_ascii=ascii_only).encode(), "k") == fields


def test_a_byte_order_mark_does_not_matter() -> None:
    assert fields_of(b'\xef\xbb\xbf{"a": 1}', "k") == {"a": 1}
    assert caption_of(b"\xef\xbb\xbfa dog\r\n", "k") == {"caption": "a dog"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"a": "\xff"}',
        b"[]",
        b'"a"',
        b"null",
        b'{"a": "\\ud800"}',
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        '{"a": 1}'.encode("utf-16"),
    ],
    ids=["empty", "cut", "bad UTF-8", "list", "text", "null", "half a surrogate pair", "deep", "long number", "UTF-16"],
)
def test_bad_json_is_a_bad_sample(data: bytes) -> None:
    with pytest.raises(BadSample, match="its JSON") as error:
        fields_of(data, "k")
    assert error.value.key == "k" and not error.value.damaged


# -------------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("form", FOLDER_FORMATS)
def test_formats_are_an_explicit_list(form: str) -> None:
    data = encoded(Image.new("RGB", (20, 10), RED), form)
    assert open_bytes(data).size == (20, 10)
    if form not in SHARD_FORMATS:
        with pytest.raises(BadSample, match="not an image of the formats JPEG, PNG, WEBP"):
            image_of(data, SHARD_FORMATS, "k")


@pytest.mark.parametrize("form", ["ICO", "EPS", "PDF", "TGA", "JPEG2000"])
def test_other_formats_are_not_opened(form: str) -> None:
    data = encoded(Image.new("RGB", (32, 32), RED), form)
    with pytest.raises(BadSample, match="not an image of the formats"):
        open_bytes(data)


def noise(width: int = 90, height: int = 70) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("form", FOLDER_FORMATS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9])
def test_a_truncated_image_is_a_bad_sample(form: str, share: float) -> None:
    """Noticed at the latest when it is decoded: an image's header may be whole."""
    data = encoded(noise(), form)
    with pytest.raises(BadSample, match=r"not an image of|cannot be (read|decoded)"):
        to_rgb(open_bytes(data[: int(share * len(data))]))


@given(place=st.integers(0, 2000), value=st.integers(0, 255), form=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF"]))
def test_a_changed_byte_gives_an_image_or_a_bad_sample(place: int, value: int, form: str) -> None:
    data = bytearray(encoded(noise(20, 16), form))
    data[place % len(data)] = value
    with contextlib.suppress(BadSample):
        assert to_rgb(open_bytes(bytes(data))).mode == "RGB"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused_by_the_header() -> None:
    """A few bytes that ask for 100 megapixels: nothing is decoded, neither here nor later."""
    small = png(10_001, 10_000, 8, 0, [b"\0"])
    assert len(small) < 100
    with pytest.raises(BadSample, match="has 10001 x 10000 pixels, at most 100,000,000 are taken"):
        open_bytes(small)
    with pytest.raises(BadSample, match="cannot be read"):  # Pillow's own limit
        open_bytes(png(100_000, 100_000, 8, 0, [b"\0"]))
    assert open_bytes(png(10_000, 10_000, 8, 0, [b"\0"])).size == (10_000, 10_000)
    assert MAX_PIXELS == 100_000_000


# ---------------------------------------------------------------------------------------- what images come out as


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk(form: str) -> None:
    rgb_image = to_rgb(open_bytes(encoded(Image.new("RGB", (16, 16), RED).convert("CMYK"), form)))
    assert np.abs(np.asarray(rgb_image).astype(int) - RED).max() < 10


def test_grey_and_palette() -> None:
    assert to_rgb(open_bytes(encoded(Image.new("L", (4, 4), 77)))).getpixel((0, 0)) == (77, 77, 77)
    for form in ("PNG", "GIF", "BMP"):
        assert to_rgb(open_bytes(encoded(Image.new("RGB", (4, 4), RED).convert("P"), form))).getpixel((0, 0)) == RED


def test_sixteen_bits_are_scaled() -> None:
    row = struct.pack(">3H", 0, 128 * 257, 65535)
    assert np.asarray(to_rgb(open_bytes(png(3, 1, 16, 0, [row]))))[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]
    assert to_rgb(open_bytes(png(1, 1, 16, 2, [row]))).getpixel((0, 0)) == (0, 128, 255)


def test_transparency_of_sixteen_bits_lies_over_white() -> None:
    grey_and_alpha = struct.pack(">4H", 0, 0, 0, 65535)
    assert np.asarray(to_rgb(open_bytes(png(2, 1, 16, 4, [grey_and_alpha]))))[0, :, 0].tolist() == [255, 0]
    hidden = _chunk(b"tRNS", struct.pack(">H", 300))
    rgb_image = to_rgb(open_bytes(png(3, 1, 16, 0, [struct.pack(">3H", 0, 300, 65535)], hidden)))
    assert np.asarray(rgb_image)[0, :, 0].tolist() == [0, 255, 255]


def test_one_bit_with_a_transparent_colour() -> None:
    rgb_image = to_rgb(open_bytes(png(8, 1, 1, 0, [b"\x0f"], _chunk(b"tRNS", struct.pack(">H", 0)))))
    assert np.asarray(rgb_image)[0, :, 0].tolist() == [255] * 8


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_counts(form: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), BLUE).save(
        file, form, save_all=True, append_images=[Image.new("RGB", (8, 8), RED)], lossless=True
    )
    image = open_bytes(file.getvalue())
    for frame in (0, 1):
        image.seek(frame)
        assert np.abs(np.asarray(to_rgb(image)).astype(int) - BLUE).max() < 10


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_exif_orientation(orientation: int, form: str) -> None:
    """The same as Pillow's own way, which also writes the EXIF data anew."""
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    noise(24, 16).save(file, form, exif=exif)
    want = ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue()))).convert("RGB")
    rgb_image = to_rgb(open_bytes(file.getvalue()))
    assert rgb_image.size == ((16, 24) if orientation > 4 else (24, 16)) and rgb_image.tobytes() == want.tobytes()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage!", b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"\xff" * 40])
@pytest.mark.filterwarnings("ignore:.*EXIF:UserWarning", "ignore:Truncated:UserWarning")
def test_damaged_exif_data_says_nothing_of_the_pixels(form: str, exif: bytes) -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 8), BLUE).save(file, form, exif=exif)
    assert to_rgb(open_bytes(file.getvalue())).size == (16, 8)


# ---------------------------------------------------------------------------------------------------------------- codes


def npy_bytes(values: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)  # type: ignore[arg-type]
    return buffer.getvalue()


def test_codes_come_back() -> None:
    codes = codes_of(npy_bytes(np.array([1, 65535], np.uint16)), "k")
    assert codes.dtype == np.int64 and codes.tolist() == [1, 65535]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no array",
        npy_bytes(np.array([{}], object)),
        npy_bytes(np.array([1.5])),
        npy_bytes(np.zeros((2, 2), int)),
        npy_bytes(np.arange(9))[:-3],
        npy_bytes(np.arange(9)).replace(b"(9,), ", b"(99999999999999,), "[:6]),
    ],
    ids=["empty", "text", "pickle", "floats", "table", "cut", "wrong shape"],
)
def test_other_codes_are_bad_samples(data: bytes) -> None:
    with pytest.raises(BadSample, match="cached codes"):
        codes_of(data, "k")

"""Any image in, the official pixels out (against the official numbers: tests/model/test_golden_model.py)."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from janus_train.data.images import generation_pixels, to_float, to_rgb, understanding_pixels

RED, GREEN, BLUE, WHITE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (127, 127, 127)


def gradient(width: int, height: int) -> Image.Image:
    yy, xx = np.mgrid[0:height, 0:width]
    a = np.stack([xx * 255 / max(1, width - 1), yy * 255 / max(1, height - 1), (xx + yy) % 256], axis=-1)
    return Image.fromarray(a.astype(np.uint8))


def reopen(image: Image.Image, form: str, **options: object) -> Image.Image:
    file = io.BytesIO()
    image.save(file, form, **options)
    return Image.open(io.BytesIO(file.getvalue()))


# ------------------------------------------------------------------------------------------------------------ to_rgb


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "LA", "I", "F", "I;16"]
)
def test_any_mode_comes_out_as_rgb(mode: str) -> None:
    pixels = to_rgb(Image.new(mode, (5, 3)))
    assert pixels.mode == "RGB" and pixels.size == (5, 3)


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA"])
def test_rarer_modes_too(mode: str) -> None:
    source = {"La": "LA", "RGBa": "RGBA", "PA": "P"}[mode]
    pixels = to_rgb(Image.new(source, (5, 3), 0).convert(mode))
    assert pixels.mode == "RGB" and pixels.size == (5, 3)


def test_rgb_is_left_as_it_is() -> None:
    image = gradient(9, 7)
    assert to_rgb(image) is image


def test_transparency_lies_over_white() -> None:
    image = Image.new("RGBA", (3, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    pixels = to_rgb(image)
    assert pixels.getpixel((0, 0)) == RED and pixels.getpixel((1, 0)) == WHITE
    assert pixels.getpixel((2, 0)) == (127, 127, 127)
    assert to_rgb(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_lies_over_white(mode: str) -> None:
    """PNG and GIF can name one colour or palette entry as transparent."""
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), BLUE)
    image = image.convert(mode)
    file = reopen(image, "PNG", transparency=image.getpixel((1, 0)))
    assert file.mode == mode and "transparency" in file.info
    pixels = to_rgb(file)
    assert pixels.getpixel((1, 0)) == WHITE and pixels.getpixel((0, 0)) == image.convert("RGB").getpixel((0, 0))


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (16, 8), RED)
    image.paste(BLUE, (0, 0, 8, 8))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    pixels = to_rgb(reopen(image, "PNG", exif=exif))
    assert pixels.size == (8, 16) and pixels.getpixel((4, 2)) == BLUE and pixels.getpixel((4, 13)) == RED
    assert understanding_pixels(reopen(image, "PNG", exif=exif), 32)[:, 3].tolist() == [list(GREY)] * 32


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    want = [0, 1, 128, 255]
    for image in (
        Image.fromarray(values),
        reopen(Image.fromarray(values), "PNG"),
        reopen(Image.fromarray(values), "TIFF"),
    ):
        assert np.asarray(to_rgb(image))[0, :, 1].tolist() == want, image.mode
    assert np.asarray(to_rgb(Image.fromarray(values.astype(np.int32))))[0, :, 0].tolist() == want
    small = Image.fromarray(np.array([[0, 7, 255]], np.int32))
    assert np.asarray(to_rgb(small))[0, :, 0].tolist() == [0, 7, 255], "mode I with values of 8 bits"


def test_floats_are_read_by_their_range() -> None:
    assert np.asarray(to_rgb(Image.fromarray(np.array([[0, 0.5, 1]], np.float32))))[0, :, 0].tolist() == [0, 128, 255]
    assert np.asarray(to_rgb(Image.fromarray(np.array([[0, 9, 300]], np.float32))))[0, :, 0].tolist() == [0, 9, 255]


def test_cmyk_keeps_its_colour() -> None:
    pixels = to_rgb(reopen(Image.new("RGB", (16, 16), RED).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(np.asarray(pixels).astype(int) - RED).max() < 10


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(form: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (GREEN, RED)]
    file = reopen(frames[0], form, save_all=True, append_images=frames[1:], lossless=True)
    file.seek(1)
    assert np.abs(np.asarray(to_rgb(file)).astype(int) - GREEN).max() < 10


# ---------------------------------------------------------------------------------------------------------- two recipes


@pytest.mark.parametrize(
    ("size", "resized"), [((100, 33), (64, 21)), ((33, 100), (21, 64)), ((1000, 10), (64, 14)), ((64, 64), (64, 64))]
)
def test_trap_6_the_short_side_is_truncated(size: tuple[int, int], resized: tuple[int, int]) -> None:
    """33 / 100 * 64 = 21.12; 1000 x 10 would be 0.64 high and gets the official 14."""
    pixels = understanding_pixels(Image.new("RGB", size, RED), 64)
    assert pixels.shape == (64, 64, 3) and pixels.dtype == np.uint8
    is_red = (pixels == RED).all(axis=-1)
    left, top = (64 - resized[0]) // 2, (64 - resized[1]) // 2
    want = np.zeros((64, 64), bool)
    want[top : top + resized[1], left : left + resized[0]] = True
    assert np.array_equal(is_red, want)
    assert (pixels[~want] == GREY).all()


def test_trap_6_shows_where_rounding_would_differ() -> None:
    """77 / 1023 * 384 = 28.9: 28 rows, not 29."""
    pixels = understanding_pixels(Image.new("RGB", (1023, 77), RED), 384)
    assert (pixels == RED).all(axis=-1).any(axis=1).sum() == 28


@pytest.mark.parametrize("size", [(64, 64), (100, 33), (33, 100), (65, 64), (10, 640), (1, 1), (3, 2000)])
def test_trap_3_the_generation_image_has_no_border(size: tuple[int, int]) -> None:
    pixels = generation_pixels(Image.new("RGB", size, RED), 64)
    assert pixels.shape == (64, 64, 3) and pixels.dtype == np.uint8 and (pixels == RED).all()


def test_the_generation_image_is_the_middle() -> None:
    image = Image.new("RGB", (192, 64), RED)
    image.paste(GREEN, (64, 0, 128, 64))
    image.paste(BLUE, (128, 0, 192, 64))
    assert (generation_pixels(image, 64) == GREEN).all()
    assert (generation_pixels(image.transpose(Image.Transpose.ROTATE_90), 64) == GREEN).all()


def test_the_generation_image_is_resized_then_cropped() -> None:
    image = gradient(300, 201)
    want = np.asarray(image.resize((int(64 * 300 / 201), 64), Image.Resampling.BICUBIC).crop((15, 0, 79, 64)))
    pixels = generation_pixels(image, 64)
    assert int(64 * 300 / 201) == 95 and round((95 - 64) / 2) == 16
    assert np.array_equal(pixels, np.asarray(image.resize((95, 64), Image.Resampling.BICUBIC).crop((16, 0, 80, 64))))
    assert not np.array_equal(pixels, want)


def test_a_banner_is_not_blown_up_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 x 10 would be 128,000 pixels wide at a height of 64."""
    largest: list[int] = []
    resize = Image.Image.resize

    def record_size(self: Image.Image, size: tuple[int, int], *rest: object) -> Image.Image:
        largest.append(max(size))
        return resize(self, size, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", record_size)
    assert generation_pixels(gradient(20_000, 10), 64).shape == (64, 64, 3)
    assert largest and max(largest) <= 512


def test_recipes_take_any_mode() -> None:
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    assert (understanding_pixels(image, 64) == WHITE).all() and (generation_pixels(image, 64) == WHITE).all()


def photograph(width: int, height: int) -> bytes:
    """Shapes of several sizes and grain, as a JPEG."""
    rng = np.random.default_rng(0)
    levels = rng.normal(128, 6, (height, width, 1)).repeat(3, axis=2)
    for grid, height_of_waves in ((6, 90), (20, 40), (80, 20), (300, 10)):
        coarse = Image.fromarray(rng.integers(0, 256, (max(2, grid * height // width), grid, 3), np.uint8))
        fine = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), float)
        levels += (fine - 128) * height_of_waves / 128
    buffer = io.BytesIO()
    Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(800, 600), (801, 603), (1203, 402), (391, 1601)])
def test_reduced_jpegs_stay_within_their_bound(size: tuple[int, int]) -> None:
    data = photograph(*size)
    exact = understanding_pixels(Image.open(io.BytesIO(data)), 96).astype(int)
    source = Image.open(io.BytesIO(data))
    reduced = understanding_pixels(source, 96, reduced=True)
    assert max(source.size) <= max(size) // 2 + 1, "decoded at a half or less"
    off = np.abs(exact - reduced)
    assert 0 < off.max() <= 3 and off.mean() < 0.5


def test_what_cannot_be_reduced_is_exact() -> None:
    small = photograph(380, 200)  # less than four times 96
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(io.BytesIO(photograph(800, 600))).save(buffer, "JPEG", exif=exif)
    png = reopen(Image.open(io.BytesIO(photograph(800, 600))), "PNG")
    for image in (Image.open(io.BytesIO(small)), Image.open(buffer), png):
        exact, reduced = understanding_pixels(image.copy(), 96), understanding_pixels(image, 96, reduced=True)
        np.testing.assert_array_equal(exact, reduced)


def test_to_float_goes_from_minus_one_to_one() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    levels[..., 2] = 0
    pixels = to_float(levels)
    assert pixels.shape == (3, 16, 16) and pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[0].ravel(), np.arange(256) / 127.5 - 1, atol=1e-7)
    assert pixels[0, 0, 0] == -1 and pixels[0, 15, 15] == 1 and (pixels[2] == -1).all()


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4, 3), np.float32), np.zeros((3, 4, 4), np.uint8), np.zeros((4, 4), np.uint8)]
)
def test_to_float_refuses_other_arrays(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        to_float(wrong)

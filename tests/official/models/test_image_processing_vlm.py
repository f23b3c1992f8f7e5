"""Pixels by the official rule: the golden vectors, options, and metadata that the official code does not read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from janus_train.data.images import to_float, understanding_pixels
from janus_train.errors import UserError
from janus_train.official.models import VLMImageProcessor
from tests.model.test_golden_model import GOLDEN, SIZES, image
from tests.official.conftest import noise

HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@pytest.mark.parametrize("i", range(len(SIZES)))
def test_golden_pixels(i: int) -> None:
    golden = np.load(GOLDEN / "official_outputs.npz")
    pixels = VLMImageProcessor(384, **HALVES)([Image.fromarray(image(i))]).pixel_values[0].numpy()
    assert np.array_equal(pixels[:, ::8, ::8], golden[f"und_pixels{i}"])
    assert np.array_equal(pixels, to_float(understanding_pixels(Image.fromarray(image(i)), 384)))


def test_the_official_defaults_are_clips() -> None:
    processor = VLMImageProcessor(8)
    assert processor.background_color == (122, 116, 104) and processor.default_shape == [3, 8, 8]
    pixels = processor.preprocess([Image.new("RGB", (8, 8), (255, 0, 0))], return_tensors="np").pixel_values
    expected = [(1 - 0.48145466) / 0.26862954, -0.4578275 / 0.26130258, -0.40821073 / 0.27577711]
    np.testing.assert_allclose(pixels[0, :, 0, 0], expected, rtol=1e-6)
    plain = VLMImageProcessor(8, do_normalize=False)([Image.new("RGB", (8, 8), (255, 0, 0))])
    assert plain.pixel_values[0, :, 0, 0].tolist() == [1.0, 0.0, 0.0]


def test_the_short_side_and_no_image() -> None:
    processor = VLMImageProcessor(32, min_size=5, **HALVES)
    columns = processor([noise(0, 1000, 10)]).pixel_values[0, 0]
    grey = (columns == (np.float32(127) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)).all(1)
    assert (~grey).sum() == 5
    assert processor([]).pixel_values.shape == processor(None).pixel_values.shape == (0, 3, 32, 32)


def test_an_image_is_not_turned_as_its_exif_data_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(0).save(tmp_path / "turned.png", exif=exif)
    processor = VLMImageProcessor(32, **HALVES)
    with Image.open(tmp_path / "turned.png") as turned:
        assert processor([turned]).pixel_values.equal(processor([noise(0)]).pixel_values)


def test_a_folder_without_a_size_is_one_line(tmp_path: Path) -> None:
    for values in ({}, {"size": 8}, {"image_size": "x"}):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
        with pytest.raises(UserError, match=r"preprocessor_config\.json is missing or has no image_size"):
            VLMImageProcessor.from_pretrained(tmp_path)

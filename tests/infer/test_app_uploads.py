"""Uploads to the app, without a browser: what gradio hands on, and what becomes of a file that is no image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.hostile_images import HOSTILE, bomb, hostile_file, nothing_runs
from tests.infer.fake_page import FakeEngine, event_of

gradio = pytest.importorskip("gradio", reason="the extra gradio is not installed")


def ask(*paths: Path) -> list[Any]:
    """The answers to a question about uploads, by way of gradio's own preparation of its components' values."""
    from gradio.components.gallery import GalleryData, GalleryImage
    from gradio.data_classes import ImageData

    event = event_of(FakeEngine(), "ask")
    payload = GalleryData(root=[GalleryImage(image=ImageData(path=str(path), orig_name=path.name)) for path in paths])
    return list(event.fn(event.inputs[0].preprocess(payload), "What is it?", 8))


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_uploads_are_told_in_one_line(kind: str, tmp_path: Path, told: list[str]) -> None:
    path = hostile_file(kind, tmp_path)
    with nothing_runs(tmp_path):
        ask(path)
    assert len(told) == 1 and "\n" not in told[0]
    assert told[0].startswith("holiday.png cannot be read as an image: it ")
    assert told[0].endswith("; give a JPEG, PNG or WebP of at most 25 megapixels")


def test_an_image_is_asked_about(tmp_path: Path, told: list[str]) -> None:
    Image.new("RGB", (40, 30), "blue").save(tmp_path / "blue.png")
    assert ask(tmp_path / "blue.png") == ["[(40, 30)]"] and not told


def test_an_upload_that_is_gone_is_told(tmp_path: Path, told: list[str]) -> None:
    ask(tmp_path / "gone.png")
    assert told == ["gone.png cannot be read as an image: upload it again"]


def test_the_pixel_limit_of_the_app_is_lower_than_that_of_data(tmp_path: Path, told: list[str]) -> None:
    (tmp_path / "wide.png").write_bytes(bomb(6000, 5000))
    ask(tmp_path / "wide.png")
    assert told == [
        "wide.png cannot be read as an image: it has 6000 x 5000 pixels, at most 25,000,000 are taken; "
        "give a JPEG, PNG or WebP of at most 25 megapixels"
    ]


def test_images_are_counted_before_they_are_opened(tmp_path: Path, told: list[str]) -> None:
    ask(*[tmp_path / "gone.png"] * 17)
    assert told == ["there are 17 images, at most 16 are taken at once"]


def test_the_pixels_of_a_question_are_limited_together(tmp_path: Path, told: list[str]) -> None:
    Image.new("1", (5000, 4900)).save(tmp_path / "big.png")
    ask(*[tmp_path / "big.png"] * 5)
    assert told == ["the images have more than 100 megapixels together: give fewer"]

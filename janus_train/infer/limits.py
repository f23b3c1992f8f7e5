"""What the app and the server take from others, and for how long they work for one request."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from PIL import Image

from janus_train.data.image_files import ImageError, load_image, open_image
from janus_train.errors import UserError

MAX_IMAGES = 16
"""Images in a question, and images or answers that one request asks for."""
MAX_PROMPT_CHARS = 10_000
MAX_PIXELS, MAX_PIXELS_TOGETHER = 25_000_000, 100_000_000
"""A photo of a good camera, and all images of a question: a pixel takes three to four bytes."""
WHAT_TO_GIVE = f"give a JPEG, PNG or WebP of at most {MAX_PIXELS // 10**6} megapixels"


class TimeLimitError(UserError):
    """The time of a request is over."""


class Deadline:
    """The end of a request's time, to be asked for between its steps."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """Raises `TimeLimitError` once the time is over."""
        if time.monotonic() > self._end:
            raise TimeLimitError(f"stopped after {self.seconds:g} s, the time limit of a request: ask for less at once")


def check_prompt(text: str, max_chars: int = MAX_PROMPT_CHARS) -> None:
    """Raises `UserError` if the text is too long."""
    if len(text) > max_chars:
        raise UserError(f"the text has {len(text):,} characters, at most {max_chars:,} are taken")


def check_number(name: str, value: Any, least: float, most: float) -> float:
    """``value``. Raises `UserError` if it is no number, or none between the two: a page's sliders bind nobody."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise UserError(f"{name} must be a number from {least} to {most}")
    return value


def check_images(number: int, pixels: int = 0) -> None:
    """Raises `UserError` for too many images, or too many ``pixels`` of all of them."""
    if number > MAX_IMAGES:
        raise UserError(f"there are {number} images, at most {MAX_IMAGES} are taken at once")
    if pixels > MAX_PIXELS_TOGETHER:
        raise UserError(f"the images have more than {MAX_PIXELS_TOGETHER // 10**6} megapixels together: give fewer")


def read_image(source: bytes | Path, name: str) -> Image.Image:
    """An image from elsewhere, called ``name`` in messages, decoded.

    Raises:
        UserError: it is not an image, is damaged, or has too many pixels.
        OSError: the file cannot be read.
    """
    try:
        image = open_image(source)
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(f"has {image.width} x {image.height} pixels, at most {MAX_PIXELS:,} are taken")
        load_image(image)
    except ImageError as error:
        raise UserError(f"{name} cannot be read as an image: it {error}; {WHAT_TO_GIVE}") from None
    return image

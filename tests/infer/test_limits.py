"""The limits of every request, by their functions."""

from __future__ import annotations

import time

import pytest

from janus_train.errors import UserError
from janus_train.infer.limits import Deadline, TimeLimitError, check_images, check_number, check_prompt, read_image
from tests.helpers import encoded, plain_image
from tests.hostile_images import bomb


def test_a_deadline_passes_once() -> None:
    Deadline(60).check()
    deadline = Deadline(0.5)
    deadline._end = time.monotonic() - 1e-9
    with pytest.raises(TimeLimitError, match=r"stopped after 0\.5 s, the time limit of a request: ask for less"):
        deadline.check()


def test_texts_and_images_are_counted() -> None:
    check_prompt("x" * 10_000)
    check_images(16, 100_000_000)
    with pytest.raises(UserError, match="the text has 10,001 characters, at most 10,000 are taken"):
        check_prompt("x" * 10_001)
    with pytest.raises(UserError, match="there are 17 images, at most 16"):
        check_images(17)
    with pytest.raises(UserError, match="more than 100 megapixels together"):
        check_images(2, 100_000_001)


@pytest.mark.parametrize("value", [True, None, "1", 0, 11, float("nan"), float("inf")])
def test_only_numbers_in_the_range_are_numbers(value: object) -> None:
    assert check_number("x", 2.5, 1, 10) == 2.5
    with pytest.raises(UserError, match="x must be a number from 1 to 10"):
        check_number("x", value, 1, 10)


def test_an_image_is_read_whole_or_refused_in_one_line() -> None:
    image = read_image(encoded(plain_image((1, 2, 3))), "it")
    assert image.getpixel((0, 0)) == (1, 2, 3)
    with pytest.raises(UserError, match=r"a cannot be read as an image: it has 6000 x 5000 pixels, at most 25,000,000"):
        read_image(bomb(6000, 5000), "a")
    with pytest.raises(UserError, match=r"a cannot be read as an image: it is not an image .*; give a JPEG, PNG or"):
        read_image(b"no image", "a")

"""Images inside a record's text, and texts that are none."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from janus_train.data import embedded_images
from janus_train.data.embedded_images import embedded_image
from janus_train.data.image_files import ImageError
from tests.helpers import encoded, plain_image


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_data_uris_and_base64(form: str) -> None:
    data = encoded(plain_image(), form)
    text = base64.b64encode(data).decode()
    lines = base64.encodebytes(data).decode()
    for written in (text, lines, f"data:image/{form.lower()};base64,{text}", f"DATA:;charset=x;BASE64,{lines}"):
        assert embedded_image(written) == data
    assert embedded_image("data:image/svg+xml,%3Csvg%20/%3E") == b"<svg />"  # whoever opens it refuses it


@pytest.mark.parametrize(
    "name", ["p0.png", "", "coco/train2017/000000033471", "a" * 300, "/9j/" + "A" * 300, "x" * 46 + ".png"]
)
def test_paths_are_no_images(name: str) -> None:
    assert embedded_image(name) is None


@given(st.text())
def test_no_text_is_more_than_refused(text: str) -> None:
    assert embedded_image(text) is None or text.lower().startswith("data:")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("data:image/png;base64", "has no comma"),
        ("data:" + "x" * 300 + ",", "has no comma"),
        ("data:image/png;base64,AAA", "base64 is damaged"),
        ("data:image/png;base64,A*AA", "base64 is damaged"),
    ],
)
def test_damaged_data_uris(uri: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        embedded_image(uri)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    text = base64.b64encode(encoded(plain_image())).decode()
    monkeypatch.setattr(embedded_images, "_MAX_BASE64", 64)
    assert embedded_image(text) is None
    with pytest.raises(ImageError, match="has more than 401 MB"):
        embedded_image(f"data:image/png;base64,{text}")

"""Uploads to the app, without a browser: what gradio hands on, and what becomes of a file that is no image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.hostile_images import HOSTILE, hostile_file, nothing_runs

gradio = pytest.importorskip("gradio", reason="the extra gradio is not installed")


class FakeModel:
    """Answers with the sizes of the images that it is shown."""

    guidance, temperature = 5.0, 1.0

    def chat(self, messages: Any, images: Sequence[Image.Image], max_new_tokens: int) -> Iterator[str]:
        yield str([image.size for image in images])


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the page says in its corner."""
    said: list[str] = []
    monkeypatch.setattr(gradio, "Warning", lambda message, **_: said.append(message))
    return said


def ask(path: Path) -> list[Any]:
    """The answers to a question about an upload, by way of gradio's own preparation of its components' values."""
    from gradio.components.gallery import GalleryData, GalleryImage
    from gradio.data_classes import ImageData

    from janus_train.infer.app import build

    page = build(FakeModel(), "my/model")  # type: ignore[arg-type]
    event = next(function for function in page.fns.values() if function.name == "ask")
    uploads = event.inputs[0]
    payload = GalleryData(root=[GalleryImage(image=ImageData(path=str(path), orig_name=path.name))])
    return list(event.fn(uploads.preprocess(payload), "What is it?", 8))


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_uploads_are_told_in_one_line(kind: str, tmp_path: Path, told: list[str]) -> None:
    path = hostile_file(kind, tmp_path)
    with nothing_runs(tmp_path):
        ask(path)
    assert len(told) == 1 and "\n" not in told[0]
    assert told[0].startswith("holiday.png cannot be read as an image: it ")
    assert told[0].endswith("; give a JPEG, PNG or WebP of at most 100 megapixels")


def test_an_image_is_asked_about(tmp_path: Path, told: list[str]) -> None:
    Image.new("RGB", (40, 30), "blue").save(tmp_path / "blue.png")
    assert ask(tmp_path / "blue.png") == ["[(40, 30)]"] and not told


def test_an_upload_that_is_gone_is_told(tmp_path: Path, told: list[str]) -> None:
    ask(tmp_path / "gone.png")
    assert told == ["gone.png cannot be read as an image: upload it again"]

"""Images from paths and from text, models, JSON; mistakes are one line."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from janus_train.errors import UserError
from janus_train.official.models import MultiModalityCausalLM, VLChatProcessor
from janus_train.official.utils.io import load_json, load_pil_images, load_pretrained_model
from tests.helpers import encoded
from tests.official.conftest import noise


def turns(*images: object) -> list[dict]:
    return [{"role": "User", "content": "a"}, {"role": "User", "content": "b", "images": list(images)}]


def test_paths_and_inline_images(tmp_path: Path) -> None:
    noise(0).save(tmp_path / "a.png")
    inline = "data:image/png;base64," + base64.b64encode(encoded(noise(1))).decode()
    loaded = load_pil_images(turns(str(tmp_path / "a.png"), inline))
    for image, seed in zip(loaded, (0, 1), strict=True):
        assert image.mode == "RGB" and np.array_equal(np.asarray(image), np.asarray(noise(seed)))
    assert load_pil_images(turns()) == []


def test_neither_exif_nor_transparency_counts(tmp_path: Path) -> None:
    """As in the official code, and unlike everywhere else in this project."""
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = noise(0).convert("RGBA")
    clear.putalpha(0)
    clear.save(tmp_path / "a.png", exif=exif)
    [image] = load_pil_images(turns(str(tmp_path / "a.png")))
    assert np.array_equal(np.asarray(image), np.asarray(noise(0)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.png", "images: there is no file nowhere.png"),
        ("text.png", r"images: 'text.png' is not an image of the formats .*: give a JPEG, PNG or WebP"),
        (".", r"images: '\.' "),
        ("data:image/png;base64,AAA", "images: 'data:image/png;base64,AAA' .*: give a JPEG"),
        ("data:image/png;base64,AAAA", "images: 'data:image/png;base64,AAAA' .*: give a JPEG"),
        (7, "images: 7 is not a path"),
    ],
)
def test_an_image_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: object, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.png").write_text("no image")
    with pytest.raises(UserError, match=message) as error:
        load_pil_images(turns(source))
    assert "\n" not in str(error.value)


def test_a_pretrained_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    tokenizer, processor, model = load_pretrained_model(str(folder))
    assert type(processor) is VLChatProcessor and type(model) is MultiModalityCausalLM and not model.training
    assert tokenizer is processor.tokenizer and model.dtype == torch.float32


def test_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('["苹果"]', encoding="utf-8")
    assert load_json(str(tmp_path / "a.json")) == ["苹果"]
    (tmp_path / "a.json").write_text("[")
    with pytest.raises(UserError, match=r"a\.json is not JSON"):
        load_json(tmp_path / "a.json")
    with pytest.raises(UserError, match="there is no such file"):
        load_json(tmp_path / "b.json")

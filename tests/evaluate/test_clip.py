"""CLIP from a folder: the same vectors as transformers' own forward, in any batch, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from janus_train.errors import UserError
from janus_train.evaluate import clip
from janus_train.evaluate.clip import ClipModel
from tests.evaluate.tiny_models import make_clip
from tests.helpers import plain_image

IMAGES = [plain_image((200, 30, 30)), plain_image((20, 30, 200), (40, 90)), plain_image((20, 230, 20), (32, 32))]
TEXTS = ["a photo of red dog", "a blue cat", "green"]


def test_vectors_are_those_of_the_models_own_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_clip(tmp_path / "clip")
    model = CLIPModel.from_pretrained(folder).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(images=IMAGES, return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**pixels, **tokens).logits_per_image / model.logit_scale.exp()
    monkeypatch.setattr(clip, "BATCH", 2)  # the last batch is not full
    loaded = ClipModel(folder)
    texts, num_cut = loaded.embed_texts(TEXTS)
    assert num_cut == 0
    assert torch.allclose(loaded.embed_images(IMAGES) @ texts.T, expected, atol=1e-5)
    assert expected.std() > 1e-3, "all are alike: the comparison would prove nothing"


def test_texts_that_are_too_long_are_counted(tmp_path: Path) -> None:
    loaded = ClipModel(make_clip(tmp_path / "clip"))
    fits, longer = "a a a a a a", "a a a a a a dog"  # 8 tokens with the beginning and the end, and 9
    assert loaded.embed_texts([fits, longer])[1] == 1


def test_the_resize_is_told_as_the_folder_has_it(tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "clip")
    assert ClipModel(folder).resize == "short side to 32, middle 32 x 32 (bicubic)"
    path = folder / "preprocessor_config.json"
    values = json.loads(path.read_text()) | {
        "size": {"height": 32, "width": 32},
        "do_center_crop": False,
        "resample": 2,
    }
    path.write_text(json.dumps(values))
    assert ClipModel(folder).resize == "to 32 x 32 (bilinear)"


def test_a_folder_that_is_no_clip_is_one_line(tmp_path: Path, random_base: Path) -> None:
    with pytest.raises(UserError, match="nowhere: there is no such folder; bring a CLIP model"):
        ClipModel(tmp_path / "nowhere")
    with pytest.raises(UserError, match="contains a model of type janus: bring a CLIP model"):
        ClipModel(random_base)
    folder = make_clip(tmp_path / "clip")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be read as a CLIP model") as error:
        ClipModel(folder)
    assert "\n" not in str(error.value)

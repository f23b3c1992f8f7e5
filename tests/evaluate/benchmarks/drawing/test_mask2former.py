"""A tiny Mask2Former from a folder: what it finds becomes objects with boxes, and one line for what is wrong."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.drawing.mask2former import Mask2FormerDetector
from tests.evaluate.tiny_models import make_clip, make_mask2former
from tests.helpers import plain_image

pytest.importorskip("scipy", reason="the extra evaluation is not installed")


class TwoQueries:
    """A model whose first query is a class in the left half, and the second another one in a corner."""

    def __init__(self, first: int, second: int, score: float):
        self.probabilities = torch.zeros(1, 2, 4)
        self.probabilities[0, 0, first] = self.probabilities[0, 1, second] = score
        self.probabilities[0, :, 3] = 1 - score  # nothing

    def __call__(self, **inputs: Any) -> SimpleNamespace:
        masks = torch.full((1, 2, 16, 16), -20.0)
        masks[0, 0, :, :8] = 20.0
        masks[0, 1, 12:, 12:] = 20.0
        return SimpleNamespace(class_queries_logits=self.probabilities.log(), masks_queries_logits=masks)


def test_objects_have_the_boxes_of_their_pixels_and_the_names_asked_for(tmp_path: Path) -> None:
    folder = make_mask2former(tmp_path / "detector", ("mouse", "dog", "cat"))
    detector = Mask2FormerDetector(folder, ["dog", "computer mouse"])
    detector._model = TwoQueries(0, 1, 0.8)
    mouse, dog = sorted((each for each in detector.detect(plain_image())), key=lambda each: each.object.box[0])
    assert (mouse.object.name, dog.object.name) == ("computer mouse", "dog")
    assert mouse.object.score == pytest.approx(0.8, abs=0.01)
    assert mouse.object.box == pytest.approx((0, 0, 40, 60), abs=1)  # of 80 x 60
    assert dog.object.box == pytest.approx((60, 45, 80, 60), abs=1)
    assert mouse.mask.shape == (60, 80) and mouse.mask[:, :39].all() and not mouse.mask[:, 41:].any()


def test_what_is_unlikely_or_not_asked_for_is_left_out(tmp_path: Path) -> None:
    detector = Mask2FormerDetector(make_mask2former(tmp_path / "detector", ("mouse", "dog", "cat")), ["dog"])
    detector._model = TwoQueries(1, 2, 0.8)
    assert [each.object.name for each in detector.detect(plain_image())] == ["dog"]
    detector._model = TwoQueries(1, 2, 0.25)
    assert detector.detect(plain_image()) == []


def test_the_models_own_output_is_read(tmp_path: Path) -> None:
    detector = Mask2FormerDetector(make_mask2former(tmp_path / "detector", always="dog"), ["dog", "cat"])
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    image = plain_image()
    image.putdata([tuple(map(int, pixel)) for pixel in noise.reshape(-1, 3)])
    instances = detector.detect(image)
    assert instances and {each.object.name for each in instances} == {"dog"}
    for each in instances:
        left, top, right, bottom = map(int, each.object.box)
        assert each.mask[top:bottom, left:right].sum() == each.mask.sum() > 0


def test_a_detector_without_a_class_is_refused_and_other_folders_too(tmp_path: Path) -> None:
    folder = make_mask2former(tmp_path / "detector")
    with pytest.raises(UserError, match="does not know 1 of the 2 classes, for example horse: bring one"):
        Mask2FormerDetector(folder, ["dog", "horse"])
    with pytest.raises(UserError, match="nowhere: there is no such folder; bring a Mask2Former"):
        Mask2FormerDetector(tmp_path / "nowhere", ["dog"])
    with pytest.raises(UserError, match="is a model of type clip: bring a Mask2Former"):
        Mask2FormerDetector(make_clip(tmp_path / "clip"), ["dog"])
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be read as a Mask2Former") as error:
        Mask2FormerDetector(folder, ["dog"])
    assert "\n" not in str(error.value)


def test_without_scipy_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_mask2former(tmp_path / "detector")

    def refuse(*arguments: Any) -> None:
        raise ImportError("Mask2FormerLoss requires the scipy library")

    monkeypatch.setattr("transformers.models.mask2former.modeling_mask2former.requires_backends", refuse)
    with pytest.raises(UserError, match=r"--detector needs scipy: pip install 'janus_train\[evaluation\]'"):
        Mask2FormerDetector(folder, ["dog"])

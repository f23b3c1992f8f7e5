"""Colours by CLIP: the crop is the object alone on grey, and the answer is the text nearest to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from janus_train.evaluate.benchmarks.drawing.colours import ColourClassifier, crop
from janus_train.evaluate.benchmarks.drawing.geneval_prompts import COLOURS
from janus_train.evaluate.benchmarks.drawing.geneval_rule import DetectedObject
from janus_train.evaluate.benchmarks.drawing.instance import Instance
from janus_train.evaluate.clip import ClipModel
from tests.evaluate.tiny_models import make_clip
from tests.helpers import plain_image


def instance(left: int, top: int, right: int, bottom: int, name: str = "dog") -> Instance:
    """An object that fills its box but for the upper left pixel."""
    mask = np.zeros((60, 80), bool)
    mask[top:bottom, left:right] = True
    mask[top, left] = False
    return Instance(DetectedObject(name, (left, top, right, bottom), 0.9), mask)


def test_the_crop_is_the_box_with_the_rest_grey() -> None:
    cut = np.asarray(crop(plain_image((200, 30, 30)), instance(10, 20, 30, 50)))
    assert cut.shape == (30, 20, 3)
    assert cut[0, 0].tolist() == [0x99] * 3 and cut[0, 1].tolist() == [200, 30, 30] == cut[-1, -1].tolist()


def test_the_colour_is_that_of_the_nearest_texts(tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "clip", seed=2)
    image, instances = plain_image((200, 30, 30)), [instance(0, 0, 80, 60), instance(10, 20, 30, 50, "cat")]
    clip, expected = ClipModel(folder), []
    for each in instances:
        [vector] = clip.embed_images([crop(image, each)])
        similarities = []
        for colour in COLOURS:
            name = each.object.name
            texts = [
                f"a photo of a {colour} {name}",
                f"a photo of a {colour}-colored {name}",
                f"a photo of a {colour} object",
            ]
            mean = sum(clip.embed_texts([text])[0][0] for text in texts)
            similarities.append(float(torch.dot(mean / mean.norm(), vector)))
        expected.append(COLOURS[int(np.argmax(similarities))])
    assert ColourClassifier(folder).classify(image, instances) == expected
    assert ColourClassifier(folder).classify(image, []) == []

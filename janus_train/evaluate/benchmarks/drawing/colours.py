"""The colour of a detected object by CLIP, as GenEval asks it: the object's crop, with all other pixels grey."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from PIL import Image

from janus_train.evaluate.benchmarks.drawing.geneval_prompts import COLOURS
from janus_train.evaluate.benchmarks.drawing.instance import Instance
from janus_train.evaluate.clip import ClipModel

GREY = "#999"
TEXTS = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")


class ColourClassifier:
    """Says which of `COLOURS` an object has, by a CLIP folder that the user brings."""

    def __init__(self, clip_folder: Path, device: str = "cpu"):
        self._clip = ClipModel(clip_folder, device)
        self._vectors = cache(self._colour_vectors)

    def classify(self, image: Image.Image, instances: Sequence[Instance]) -> list[str]:
        """Returns a colour for each object in the image."""
        if not instances:
            return []
        crops = self._clip.embed_images([crop(image, instance) for instance in instances])  # (n, D)
        vectors = [self._vectors(instance.object.name) for instance in instances]
        return [COLOURS[int((colours @ each).argmax())] for colours, each in zip(vectors, crops, strict=True)]

    def _colour_vectors(self, name: str) -> torch.Tensor:
        """A unit vector (10, D) of each colour: the mean over `TEXTS`."""
        texts = [text.format(colour=colour, name=name) for colour in COLOURS for text in TEXTS]
        vectors = self._clip.embed_texts(texts)[0].unflatten(0, (len(COLOURS), len(TEXTS)))
        return torch.nn.functional.normalize(vectors.mean(dim=1), dim=-1)


def crop(image: Image.Image, instance: Instance) -> Image.Image:
    """The object's box cut out of the image, with what is not the object in grey."""
    grey = Image.new("RGB", image.size, GREY)
    alone = Image.composite(image.convert("RGB"), grey, Image.fromarray(instance.mask))
    left, top, right, bottom = map(round, instance.object.box)
    return alone.crop((left, top, right, bottom))

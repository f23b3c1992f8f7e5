"""Objects in an image by transformers' OWLv2, from a folder that the user brings: it finds what it is asked for by name.

It sees several overlapping boxes in one object, of which the surest is kept. It has no masks: an object's pixels are those of
its box. Its scores are on a scale of its own, and low: at GenEval's thresholds it misses more than the paper's detector,
above all where objects are counted.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError

from janus_train.errors import UserError, one_line
from janus_train.evaluate.benchmarks.drawing.geneval_rule import MIN_SCORE, DetectedObject
from janus_train.evaluate.benchmarks.drawing.instance import Instance
from janus_train.interop.write import silence_transformers

Box = tuple[float, float, float, float]
MAX_OVERLAP = 0.5
"""Intersection over union above which the less sure one of two boxes of a name is the same object."""


class Owlv2Detector:
    """An OWLv2, ready to detect objects of ``names``."""

    kind = "OWLv2"

    def __init__(self, folder: Path, names: Collection[str], device: str = "cpu"):
        """Loads the folder. Raises `UserError` if it cannot be read."""
        from transformers import AutoTokenizer, Owlv2ForObjectDetection
        from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

        try:
            with silence_transformers():
                self._processor: Any = Owlv2ImageProcessorPil.from_pretrained(folder, local_files_only=True)
                tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
                model: Any = Owlv2ForObjectDetection.from_pretrained(folder, local_files_only=True)
        except ImportError:
            raise UserError("--detector needs scipy: pip install 'janus_train[evaluation]'") from None
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise UserError(f"--detector {folder} cannot be read as an OWLv2 ({one_line(error, 300)})") from None
        self._model, self._device, self._names = model.eval().to(device), device, sorted(names)
        self._queries = tokenizer(
            [f"a photo of a {name}" for name in self._names],
            padding="max_length",
            truncation=True,
            max_length=model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(device)

    @torch.no_grad()
    def detect(self, image: Image.Image) -> list[Instance]:
        """Detects objects with a score of at least GenEval's."""
        pixels = self._processor(images=image, return_tensors="pt")["pixel_values"].to(self._device)
        outputs = self._model(
            input_ids=self._queries["input_ids"], attention_mask=self._queries["attention_mask"], pixel_values=pixels
        )
        on_cpu = SimpleNamespace(logits=outputs.logits.float().cpu(), pred_boxes=outputs.pred_boxes.float().cpu())
        [found] = self._processor.post_process_object_detection(
            on_cpu, threshold=MIN_SCORE, target_sizes=[(image.height, image.width)]
        )
        objects = [
            DetectedObject(self._names[label], _inside(box, image), score)
            for score, label, box in zip(*(found[key].tolist() for key in ("scores", "labels", "boxes")), strict=True)
        ]
        return [Instance(each, _mask(each.box, image)) for each in surest(objects)]


def surest(objects: Collection[DetectedObject]) -> list[DetectedObject]:
    """The objects without those that overlap a surer one of their name, the surest first."""
    kept: list[DetectedObject] = []
    for each in sorted(objects, key=lambda each: -each.score):
        if all(other.name != each.name or overlap(other.box, each.box) <= MAX_OVERLAP for other in kept):
            kept.append(each)
    return kept


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes (left, top, right, bottom); 0 for boxes without an area."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0.0) * max(height, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return both / (areas - both) if areas > both else 0.0


def _inside(box: list[float], image: Image.Image) -> Box:
    left, top, right, bottom = box
    width, height = image.size
    return max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))


def _mask(box: Box, image: Image.Image) -> np.ndarray:
    """The pixels that the box touches, (height, width) bool."""
    mask = np.zeros((image.height, image.width), dtype=bool)
    left, top, right, bottom = int(box[0]), int(box[1]), int(np.ceil(box[2])), int(np.ceil(box[3]))
    mask[top:bottom, left:right] = True
    return mask

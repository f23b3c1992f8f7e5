"""Objects in an image by transformers' Mask2Former, from a folder that the user brings.

It is the class of GenEval's detector, in another library and with other weights: not the paper's.
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

_OTHER_NAMES = {
    "computermouse": "mouse",
    "tvremote": "remote",
    "computerkeyboard": "keyboard",
    "motorcycle": "motorbike",
    "airplane": "aeroplane",
    "couch": "sofa",
    "tv": "tvmonitor",
    "television": "tvmonitor",
    "hairdryer": "hairdrier",
}
"""Names of one COCO class in GenEval and in detectors' folders, without spaces; both sides are mapped."""


class Mask2FormerDetector:
    """A Mask2Former for instance segmentation, ready to detect objects of ``names``."""

    kind = "Mask2Former"

    def __init__(self, folder: Path, names: Collection[str], device: str = "cpu"):
        """Loads the folder. Raises `UserError` if it is no Mask2Former, or knows a name of ``names`` not at all."""
        from transformers import AutoConfig, Mask2FormerForUniversalSegmentation
        from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

        if not folder.is_dir():
            raise UserError(
                f"--detector {folder}: there is no such folder; bring a Mask2Former or an OWLv2 in transformers' layout"
            )
        try:
            with silence_transformers():
                config = AutoConfig.from_pretrained(folder, local_files_only=True)
                if config.model_type != "mask2former":
                    raise UserError(
                        f"--detector {folder} is a model of type {config.model_type}: bring a Mask2Former or an OWLv2"
                    )
                self._processor: Any = Mask2FormerImageProcessorPil.from_pretrained(folder, local_files_only=True)
                model: Any = Mask2FormerForUniversalSegmentation.from_pretrained(folder, local_files_only=True)
        except ImportError:
            raise UserError("--detector needs scipy: pip install 'janus_train[evaluation]'") from None
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise UserError(f"--detector {folder} cannot be read as a Mask2Former ({one_line(error, 300)})") from None
        self._model, self._device = model.eval().to(device), device
        wanted = {_canonical(name): name for name in names}
        known = {int(number): _canonical(label) for number, label in config.id2label.items()}
        self._names = {number: wanted[label] for number, label in known.items() if label in wanted}
        unknown = sorted(set(wanted.values()) - set(self._names.values()))
        if unknown:
            raise UserError(
                f"--detector {folder} does not know {len(unknown)} of the {len(wanted)} classes, for example {unknown[0]}: "
                "bring one that was trained on COCO's instances"
            )

    @torch.no_grad()
    def detect(self, image: Image.Image) -> list[Instance]:
        """Detects objects with a score of at least GenEval's; a box is that of the object's pixels."""
        inputs = self._processor(images=image, return_tensors="pt").to(self._device)
        outputs = self._model(**inputs)
        on_cpu = SimpleNamespace(  # where transformers builds the map of segments
            class_queries_logits=outputs.class_queries_logits.float().cpu(),
            masks_queries_logits=outputs.masks_queries_logits.float().cpu(),
        )
        [found] = self._processor.post_process_instance_segmentation(
            on_cpu, threshold=MIN_SCORE, target_sizes=[(image.height, image.width)], return_binary_maps=True
        )
        if not found["segments_info"]:
            return []
        masks = np.asarray(found["segmentation"]) > 0  # (n, height, width)
        instances = []
        for mask, info in zip(masks, found["segments_info"], strict=True):
            name = self._names.get(info["label_id"])
            if name is not None and mask.any():
                instances.append(Instance(DetectedObject(name, _box(mask), info["score"]), mask))
        return instances


def _box(mask: np.ndarray) -> tuple[float, float, float, float]:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _canonical(name: str) -> str:
    plain = "".join(character for character in name.lower() if character.isalnum())
    return _OTHER_NAMES.get(plain, plain)

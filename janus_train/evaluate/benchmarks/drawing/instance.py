"""What detectors find."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from janus_train.evaluate.benchmarks.drawing.geneval_rule import DetectedObject


@dataclass(frozen=True)
class Instance:
    """A detected object and its pixels, (height, width) bool."""

    object: DetectedObject
    mask: np.ndarray

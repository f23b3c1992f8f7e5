"""Scores of the generated images as a set: CLIP score with their prompts, and FID to the true ones.

Both need networks that the user brings (`janus_train.evaluate.image_metrics`); without them nothing is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from janus_train.errors import UserError
from janus_train.evaluate.bootstrap import mean
from janus_train.evaluate.image_metrics import clip_scores, fid
from janus_train.evaluate.own_data.options import OwnDataOptions


def image_scores(
    images: Sequence[Image.Image],
    true_images: Sequence[Image.Image],
    prompts: Sequence[str],
    options: OwnDataOptions,
    device: str,
    lines: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Returns the scores; each image's own CLIP score is added to its line.

    A score that cannot be computed is a text under ``problems``, so that the images of hours are not lost for it.
    """
    scores: dict[str, Any] = {"n": len(images), "problems": []}

    def clip(folder: Path) -> None:
        own = clip_scores(images, prompts, folder, device)
        of_true = clip_scores(true_images, prompts, folder, device)
        for line, score, true_score in zip(lines, own.scores, of_true.scores, strict=True):
            line |= {"clip": score, "true_clip": true_score}
        scores["clip"] = mean(own.scores, options.seed) | {"of_true_images": of_true.mean, "how": own.how}

    def distance(weights: Path) -> None:
        result = fid(true_images, images, weights, device)
        scores["fid"] = {"value": result.value, "how": result.how}

    for name, path, compute in (("CLIP score", options.clip, clip), ("FID", options.inception, distance)):
        if path is None or not images:
            continue
        try:
            compute(Path(path).expanduser())
        except UserError as error:
            scores["problems"].append(f"the {name} was not computed: {error}")
    return scores

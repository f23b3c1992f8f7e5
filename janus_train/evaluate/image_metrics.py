"""FID and CLIP score: drawn images beside true ones, and beside their prompts.

Both need weights that the user brings; nothing is fetched.

- FID through torchmetrics (``pip install 'janus_train[evaluation]'``). The network is the Inception of 2015 as one
  TorchScript file, ``inception-2015-12-05.pt`` of StyleGAN2-ADA, which is a program: take it from nobody you do not trust.
  It resizes by itself, as TensorFlow 1 did. torch-fidelity's ``.pth`` file would need torch-fidelity, which needs torchvision.
- CLIP score: a CLIP folder in transformers' layout.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from janus_train.data.images import generation_pixels, to_rgb
from janus_train.errors import UserError, one_line
from janus_train.evaluate.clip import ClipModel

INCEPTION = "the Inception network as TorchScript, inception-2015-12-05.pt of StyleGAN2-ADA"
_BATCH = 16


@dataclass(frozen=True)
class Fid:
    """The Fréchet inception distance, lower is better. ``how``: which images and which resize, in words."""

    value: float
    num_true: int
    num_drawn: int
    how: str


@dataclass(frozen=True)
class ClipScores:
    """100 times the cosine of each image and its prompt, 0 if that is negative. ``how``: which images and which resize."""

    scores: list[float]
    num_cut_prompts: int
    """Prompts longer than the model's context, which were read up to there."""
    how: str

    @property
    def mean(self) -> float:
        return sum(self.scores) / len(self.scores)


def fid(
    true_images: Sequence[Image.Image], drawn_images: Sequence[Image.Image], weights: Path, device: str = "cpu"
) -> Fid:
    """Computes the FID between two sets of images, each of at least two.

    True images are first resized and cropped to the drawn images' size, in the way in which training images are. ``weights``:
    `INCEPTION`.

    Raises:
        UserError: too few images, torchmetrics is missing, or the weights are not such a network.
    """
    for name, images in (("true", true_images), ("drawn", drawn_images)):
        if len(images) < 2:
            raise UserError(f"FID needs at least two {name} images, there are {len(images)}")
    metric_class = _metric_class()
    network = _Network(weights, device)
    size = drawn_images[0].width
    metric = metric_class(feature=network).to(device)
    for images, is_true in ((true_images, True), (drawn_images, False)):
        for start in range(0, len(images), _BATCH):
            pixels = np.stack([generation_pixels(image, size) for image in images[start : start + _BATCH]])
            batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)  # (N, 3, S, S) uint8
            metric.update(batch, real=is_true)
    value = float(metric.compute())
    how = (
        f"{len(drawn_images)} drawn images of {size} x {size} against {len(true_images)} true ones, these resized by "
        f"their short side (bicubic) and cropped to {size} x {size}; then the resize inside {weights.name}, "
        f"{network.num_features} features; FIDs of other numbers of images cannot be compared"
    )
    return Fid(value, len(true_images), len(drawn_images), how)


def clip_scores(
    images: Sequence[Image.Image], prompts: Sequence[str], clip_folder: Path, device: str = "cpu"
) -> ClipScores:
    """Computes the CLIP score of each image with its prompt.

    Raises:
        ValueError: other numbers of images and prompts, or none.
        UserError: the folder is not a CLIP model in transformers' layout.
    """
    if not images or len(images) != len(prompts):
        raise ValueError(f"{len(images)} images and {len(prompts)} prompts: give one prompt per image")
    model = ClipModel(clip_folder, device)
    image_vectors = model.embed_images([to_rgb(image) for image in images])  # (N, D)
    text_vectors, num_cut = model.embed_texts(prompts)
    scores = (100 * (image_vectors * text_vectors).sum(-1)).clamp(min=0).tolist()
    sizes = sorted({image.size for image in images})
    measured = " and ".join(f"{width} x {height}" for width, height in sizes[:2])
    more = f" and {len(sizes) - 2} other sizes" if len(sizes) > 2 else ""
    how = f"{len(images)} images of {measured}{more}; resize: {model.resize}; CLIP in {clip_folder.name}"
    if num_cut:
        how += f"; {num_cut} prompts are longer than its {model.max_tokens} tokens and were cut there"
    return ClipScores(scores, num_cut, how)


def _metric_class() -> Any:
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise UserError(
            f"FID needs torchmetrics ({one_line(error, 200)}): pip install 'janus_train[evaluation]'; torch-fidelity is not "
            "needed, and if it is installed without torchvision, torchmetrics cannot be imported"
        ) from None
    return FrechetInceptionDistance


class _Network(torch.nn.Module):
    """The Inception network: images (N, 3, S, S) uint8 -> features (N, D)."""

    def __init__(self, weights: Path, device: str):
        super().__init__()
        if not weights.is_file():
            raise UserError(f"{weights}: there is no such file; bring {INCEPTION}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript
                self.network = torch.jit.load(str(weights), map_location=device).eval()
            takes_features = any(
                argument.name == "return_features" for argument in self.network.forward.schema.arguments
            )
        except (RuntimeError, AttributeError) as error:
            raise UserError(
                f"{weights} is not a TorchScript file ({one_line(error, 120)}); bring {INCEPTION}"
            ) from None
        if not takes_features:  # without it such a network returns probabilities of classes
            raise UserError(f"{weights}: its forward has no return_features; bring {INCEPTION}")
        self.num_features: int = self(torch.zeros(1, 3, 299, 299, dtype=torch.uint8, device=device)).shape[1]

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.network(images, return_features=True)
        return features

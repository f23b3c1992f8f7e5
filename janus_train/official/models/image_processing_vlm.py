"""Images to the understanding encoder's pixels, with the official processor's options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature

from janus_train.data.images import MIN_SIDE, padded_square
from janus_train.errors import UserError
from janus_train.files import read_json_object_if_any

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""The official defaults. Janus's own folders set 0.5 for all of them."""
CONFIG = "preprocessor_config.json"
_OPTIONS = ("min_size", "image_mean", "image_std", "rescale_factor", "do_normalize")


class VLMImageProcessor:
    """Resizes the long side to ``image_size``, pads the short one with the mean's colour, scales and normalises."""

    model_input_names = ("pixel_values",)

    def __init__(
        self,
        image_size: int,
        min_size: int = MIN_SIDE,
        image_mean: Sequence[float] | None = CLIP_MEAN,
        image_std: Sequence[float] | None = CLIP_STD,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        **kwargs: Any,
    ):
        """``min_size``: the least pixels of the short side. Further options, which the official class ignores, are ignored."""
        self.image_size, self.min_size = image_size, min_size
        self.image_mean, self.image_std = image_mean, image_std
        self.rescale_factor, self.do_normalize = rescale_factor, do_normalize
        self.background_color = (127, 127, 127) if image_mean is None else tuple(int(x * 255) for x in image_mean)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> VLMImageProcessor:
        """Reads a folder's preprocessor_config.json, of either layout. Raises `UserError` if it names no size."""
        path = Path(folder) / CONFIG
        values = read_json_object_if_any(path)
        size = size_in(values)
        if size is None:
            raise UserError(f"{path} is missing or has no image_size")
        return cls(size, **{key: values[key] for key in _OPTIONS if key in values})

    @property
    def default_shape(self) -> list[int]:
        return [3, self.image_size, self.image_size]

    def __call__(self, images: Sequence[Image.Image] | None, return_tensors: str = "pt", **kwargs: Any) -> BatchFeature:
        return self.preprocess(images, return_tensors)

    def preprocess(
        self, images: Sequence[Image.Image] | None, return_tensors: str = "pt", **kwargs: Any
    ) -> BatchFeature:
        """n images -> ``pixel_values`` (n, 3, S, S) fp32, as a tensor or with ``return_tensors="np"`` as an array."""
        pixels = [self._pixels(image) for image in images or []]
        stacked = np.stack(pixels) if pixels else np.empty((0, *self.default_shape), np.float32)
        return BatchFeature({"pixel_values": torch.from_numpy(stacked) if return_tensors == "pt" else stacked})

    def resize(self, pil_img: Image.Image) -> np.ndarray:
        """An image -> uint8 (3, S, S), resized and padded."""
        # Without the metadata: the official code does not turn an image as its EXIF data says.
        rgb = Image.fromarray(np.asarray(pil_img.convert("RGB")))
        square = padded_square(rgb, self.image_size, min_side=self.min_size, background=self.background_color)
        return np.ascontiguousarray(square.transpose(2, 0, 1))

    def _pixels(self, image: Image.Image) -> np.ndarray:
        if not isinstance(image, Image.Image):
            raise UserError(f"an image is a {type(image).__name__}: give PIL images, as load_pil_images returns them")
        channels = zip(self._levels(), self.resize(image), strict=True)
        return np.stack([levels[channel] for levels, channel in channels])

    def _levels(self) -> np.ndarray:
        """(3, 256) float32: what each level of a channel becomes, in the official order of operations."""
        levels = np.tile((np.arange(256) * self.rescale_factor).astype(np.float32), (3, 1))
        if not self.do_normalize or self.image_mean is None or self.image_std is None:
            return levels
        mean, std = (np.array(values, np.float32)[:, None] for values in (self.image_mean, self.image_std))
        return np.asarray((levels - mean) / std)


def size_in(values: dict[str, Any]) -> int | None:
    """The side in pixels that a preprocessor_config.json of either layout names; None if it names none."""
    size = values.get("size")
    side = values.get("image_size", size.get("height") if isinstance(size, dict) else None)
    return side if isinstance(side, int) else None

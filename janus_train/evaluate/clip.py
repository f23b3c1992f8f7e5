"""A CLIP model from a folder in transformers' layout: images and texts to unit vectors that can be compared.

The folder is the user's: nothing is fetched. Images go through transformers' Pillow code, which needs no torchvision, with
the size, crop and normalisation of the folder's own preprocessor_config.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError

from janus_train.errors import UserError, one_line
from janus_train.interop.write import silence_transformers

BATCH = 32
"""Images or texts at a time."""


class ClipModel:
    """A CLIP model, ready to embed images and texts."""

    def __init__(self, folder: Path, device: str = "cpu"):
        """Loads the folder. Raises `UserError` if it is not there, or not a whole CLIP in transformers' layout."""
        from transformers import AutoConfig, AutoTokenizer, CLIPModel
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder; bring a CLIP model in transformers' layout")
        try:
            with silence_transformers():
                kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
                if kind != "clip":
                    raise UserError(f"{folder} contains a model of type {kind}: bring a CLIP model")
                self._processor: Any = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
                self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
                self._model: Any = CLIPModel.from_pretrained(folder, local_files_only=True).eval().to(device)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise UserError(f"{folder} cannot be read as a CLIP model ({one_line(error, 300)})") from None
        self.device = device
        self.max_tokens: int = self._model.config.text_config.max_position_embeddings

    @property
    def resize(self) -> str:
        """How an image becomes the model's input, in words."""
        size, crop = (dict(values or {}) for values in (self._processor.size, self._processor.crop_size))
        side = size.get("shortest_edge")
        scaled = f"short side to {side}" if side else f"to {size.get('width')} x {size.get('height')}"
        cropped = f", middle {crop['width']} x {crop['height']}" if self._processor.do_center_crop and crop else ""
        filter_name = Image.Resampling(self._processor.resample).name.lower()
        return f"{scaled}{cropped} ({filter_name})" if self._processor.do_resize else f"none{cropped}"

    @torch.no_grad()
    def embed_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Returns unit vectors (N, D) float32 of N RGB images, on the CPU."""
        parts = []
        for start in range(0, len(images), BATCH):
            inputs = self._processor(images=list(images[start : start + BATCH]), return_tensors="pt")
            parts.append(self._model.get_image_features(inputs["pixel_values"].to(self.device)).pooler_output)
        return _unit(parts)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> tuple[torch.Tensor, int]:
        """Returns unit vectors (N, D) float32 of N texts, and how many texts were cut to the model's context."""
        num_cut = sum(len(ids) > self.max_tokens for ids in self._tokenizer(list(texts))["input_ids"])
        parts = []
        for start in range(0, len(texts), BATCH):
            inputs = self._tokenizer(
                list(texts[start : start + BATCH]),
                padding=True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            ).to(self.device)
            parts.append(self._model.get_text_features(**inputs).pooler_output)
        return _unit(parts), num_cut


def _unit(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.cat(list(parts)).float().cpu(), dim=-1)

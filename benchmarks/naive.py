"""A training step as in published Janus fine-tuning scripts, for comparison.

Samples are padded to the longest of their batch; the forward is transformers' own with a mask; both heads run at every
position in fp32; codes are made from the images in every step. Model, samples and loss are the same as ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers import JanusForConditionalGeneration

from janus_train.data.images import to_float
from janus_train.data.types import IGNORE, IMAGE_CODE, IMAGE_FEATURE, Document
from janus_train.model.vq import encode_images


@dataclass
class PaddedBatch:
    """B samples, padded on the right to T tokens."""

    input_ids: torch.Tensor  # (B, T)
    attention_mask: torch.Tensor  # (B, T)
    text_labels: torch.Tensor  # (B, T), at the position that predicts
    image_mask: torch.Tensor  # (B, T) bool: positions that predict a code
    feature_mask: torch.Tensor  # (B, T) bool
    code_mask: torch.Tensor  # (B, T) bool
    pixels: torch.Tensor  # (Nu, 3, S, S)
    generation_pixels: torch.Tensor  # (Ng, 3, S, S)

    def to(self, device: torch.device) -> PaddedBatch:
        return PaddedBatch(**{name: value.to(device) for name, value in vars(self).items()})


def pad_samples(samples: Sequence[Document], image_size: int) -> PaddedBatch:
    """Collates one batch of samples without cached codes."""
    T = max(len(sample) for sample in samples)

    def pad(arrays: Sequence[np.ndarray], value: int) -> torch.Tensor:
        rows = [np.pad(array.astype(np.int64), (0, T - len(array)), constant_values=value) for array in arrays]
        return torch.from_numpy(np.stack(rows))

    def stack(images: list[np.ndarray]) -> torch.Tensor:
        tensors = [torch.from_numpy(to_float(image)) for image in images]
        return torch.stack(tensors) if tensors else torch.zeros(0, 3, image_size, image_size)

    return PaddedBatch(
        input_ids=pad([s.input_ids for s in samples], 0),
        attention_mask=pad([np.ones(len(s)) for s in samples], 0),
        text_labels=pad([s.labels for s in samples], IGNORE),
        image_mask=pad([s.image_targets for s in samples], 0).bool(),
        feature_mask=pad([s.modality == IMAGE_FEATURE for s in samples], 0).bool(),
        code_mask=pad([s.modality == IMAGE_CODE for s in samples], 0).bool(),
        pixels=stack([p for s in samples for p in s.understanding_pixels]),
        generation_pixels=stack([p for s in samples for p in s.generation_pixels if p is not None]),
    )


def naive_loss(janus: JanusForConditionalGeneration, batch: PaddedBatch) -> torch.Tensor:
    """Returns the sum of all cross-entropies."""
    embeds = janus.get_input_embeddings()(batch.input_ids)  # (B, T, D)
    if len(batch.pixels):
        features = janus.model.aligner(janus.model.vision_model(batch.pixels).last_hidden_state)
        embeds = embeds.masked_scatter(batch.feature_mask[..., None], features.flatten(0, 1).to(embeds.dtype))
    image_labels = torch.full_like(batch.text_labels, IGNORE)
    if len(batch.generation_pixels):
        codes = encode_images(janus.model.vqmodel, batch.generation_pixels)  # (Ng, P)
        image_labels = image_labels.masked_scatter(batch.image_mask, codes)
        code_embeds = janus.prepare_embeddings_for_image_generation(codes)
        embeds = embeds.masked_scatter(batch.code_mask[..., None], code_embeds.flatten(0, 1).to(embeds.dtype))
    hidden = janus.model.language_model(
        inputs_embeds=embeds, attention_mask=batch.attention_mask, use_cache=False
    ).last_hidden_state
    text, image = janus.lm_head(hidden).float(), janus.model.generation_head(hidden).float()
    return F.cross_entropy(text.flatten(0, 1), batch.text_labels.flatten(), reduction="sum") + F.cross_entropy(
        image.flatten(0, 1), image_labels.flatten(), reduction="sum"
    )

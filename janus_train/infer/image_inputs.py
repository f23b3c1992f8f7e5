"""Puts images into prompts, to answer or to edit: their features replace the placeholders' embeddings.

    <bos><|User|>: <begin_of_image> P features <end_of_image>\nMake it red.\n\n<|Assistant|>:<begin_of_image>  -> P codes

The unconditional row of guidance has neither the words nor the images: every token between its first and its last is pad,
as in training (`data.encode`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import JanusForConditionalGeneration

from janus_train.data.encode import Encoder
from janus_train.data.images import to_float, understanding_pixels
from janus_train.infer.decoding import inference


def image_features(
    janus: JanusForConditionalGeneration, encoder: Encoder, images: Sequence[Image.Image]
) -> torch.Tensor:
    """Returns features (n, P, D) of n images, at least one, as the language model reads them."""
    parameter: Any = next(janus.model.vision_model.parameters())
    pixels = torch.stack([torch.from_numpy(to_float(understanding_pixels(p, encoder.image_size))) for p in images])
    with inference(janus):
        features: torch.Tensor = janus.model.get_image_features(pixels.to(parameter)).pooler_output
    return features


def prompt_embeds(
    janus: JanusForConditionalGeneration, ids: torch.Tensor, features: Sequence[torch.Tensor] = ()
) -> torch.Tensor:
    """Embeds ids (N, M) -> (N, M, D), with ``features``, (n, P, D) each, in place of the placeholders in the rows' order."""
    embeds = janus.model.language_model.embed_tokens(ids)
    places = ids == janus.config.image_token_id  # (N, M); placeholders stand for nothing else
    replacements = torch.cat([f.flatten(0, 1) for f in features]) if features else embeds.new_empty(0, embeds.shape[2])
    if int(places.sum()) != len(replacements):
        raise ValueError(f"{int(places.sum())} placeholders but features of {len(replacements)} tokens")
    embeds = embeds.clone()
    embeds[places] = replacements.to(embeds.dtype)
    return embeds

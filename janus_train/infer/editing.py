"""Pictures from words and pictures: the prompt of an editing sample, and what the model sees of the given pictures.

    <bos><|User|>: <begin_of_image> P features <end_of_image>\nMake it red.\n\n<|Assistant|>:<begin_of_image>  -> P codes

It is the `conversation` template's training sequence up to where the model draws. The row that guidance compares with has
neither the words nor the pictures: all between its first and its last token is pad, as in training (`data.encode`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import JanusForConditionalGeneration

from janus_train.config import UserError
from janus_train.data.encode import PLACEHOLDER, Encoder
from janus_train.data.pictures import to_float, understanding_pixels


@dataclass(frozen=True)
class Seen:
    """The pictures of one prompt."""

    pixels: torch.Tensor  # (n, 3, S, S) fp32 in -1..1
    places: tuple[int, ...]  # n * P positions of their features in the prompt's ids


def edit_prompt(encoder: Encoder, prompt: str, pictures: Sequence[Image.Image], context: int) -> tuple[list[int], Seen]:
    """Ids that end with ``<begin_of_image>``, and what they show.

    ``prompt`` may say where the pictures stand by ``<image_placeholder>``; else they come first, a line each. Raises
    `UserError` if placeholders and pictures differ in number, or prompt and answer do not fit ``context`` tokens.
    """
    if PLACEHOLDER not in prompt:
        prompt = f"{PLACEHOLDER}\n" * len(pictures) + prompt
    first, *rest = encoder.generation_prompt(prompt).split(PLACEHOLDER)
    if len(rest) != len(pictures):
        raise UserError(f"the prompt has {len(rest)} {PLACEHOLDER} but {len(pictures)} pictures are given")
    special, P = encoder.special, encoder.tokens_per_picture
    ids = [special.bos, *encoder.ids(first)]
    places: list[int] = []
    for piece in rest:
        places += range(len(ids) + 1, len(ids) + 1 + P)
        ids += [special.begin_of_image, *[special.placeholder] * P, special.end_of_image, *encoder.ids(piece)]
    ids.append(special.begin_of_image)
    if len(ids) + P > context:
        raise UserError(f"a prompt of {len(ids)} tokens and the {P} of its picture do not fit the context of {context}")
    pixels = [torch.from_numpy(to_float(understanding_pixels(picture, encoder.image_size))) for picture in pictures]
    return ids, Seen(torch.stack(pixels), tuple(places))


def put_pictures(
    janus: JanusForConditionalGeneration, embeds: torch.Tensor, lengths: Sequence[int], seen: Sequence[Seen]
) -> torch.Tensor:
    """``embeds`` (R, T, D) of left-padded rows, of which the first are the prompts, with their pictures' features in them."""
    parameter: Any = next(janus.model.vision_model.parameters())
    embeds = embeds.clone()
    for row, (length, one) in enumerate(zip(lengths, seen, strict=True)):
        features = janus.model.get_image_features(one.pixels.to(parameter)).pooler_output  # (n, P, D)
        places = torch.tensor(one.places, device=embeds.device) + embeds.shape[1] - length
        embeds[row, places] = features.flatten(0, 1).to(embeds.dtype)
    return embeds

"""Images that are generated during training from the recipe's preview prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from transformers import JanusForConditionalGeneration

from janus_train.data.encode import Encoder
from janus_train.data.image_files import write_png
from janus_train.data.templates import Template, text_before_image
from janus_train.infer.generate import generate_images
from janus_train.infer.image_grid import grid


def write_previews(
    janus: JanusForConditionalGeneration,
    encoder: Encoder,
    prompts: Sequence[str],
    template: Template,
    path: Path,
    guidance: float,
    temperature: float,
    images_per_prompt: int = 4,
) -> Image.Image:
    """Write a grid to ``path``: one row of ``images_per_prompt`` images per prompt, from the same seeds every time.

    ``template``: that of the images which are trained on. Prompts have its form, because a model of the first stages has
    not met the official prompt. Returns the grid.
    """
    texts = [text_before_image(template, prompt) for prompt in prompts]
    ids = [encoder.image_prompt_ids(text) for text in texts for _ in range(images_per_prompt)]
    images = generate_images(
        janus, ids, pad_id=encoder.special.pad, guidance=guidance, temperature=temperature, seeds=list(range(len(ids)))
    )
    sheet = grid([images[row : row + images_per_prompt] for row in range(0, len(images), images_per_prompt)])
    write_png(path, sheet)
    return sheet

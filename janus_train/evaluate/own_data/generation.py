"""Generates images from the samples' prompts, beside the true ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from janus_train.data.types import Document
from janus_train.evaluate.options import DrawOptions
from janus_train.evaluate.own_data.questions import Prompt
from janus_train.infer.generate import generate_images
from janus_train.infer.image_inputs import image_features
from janus_train.infer.load import LoadedModel

FOLDER = "evaluation_images"
"""Where images are written, in the evaluation's folder."""


def draw(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    document_of: Callable[[Prompt], Document],
    out: Path,
    options: DrawOptions,
    on_images: Callable[[int], None],
) -> tuple[list[dict[str, Any]], list[Image.Image], list[Image.Image]]:
    """Generates an image for each prompt; image number n has seed ``options.seed + n``, whatever its batch.

    Writes the images, the true ones, and the first one of those to edit. Returns a line for each prompt, the generated and
    the true images.
    """
    lines: list[dict[str, Any]] = []
    all_images: list[Image.Image] = []
    true_images: list[Image.Image] = []
    for start in range(0, len(prompts), options.batch_size):
        chunk = prompts[start : start + options.batch_size]
        documents = [document_of(prompt) for prompt in chunk]
        images = _generate(loaded, chunk, documents, options, start)
        for number, (prompt, document, image) in enumerate(zip(chunk, documents, images, strict=True), start):
            line: dict[str, Any] = {
                "source": prompt.source,
                "key": prompt.key,
                "group": prompt.group,
                "prompt": prompt.text,
            }
            line |= {"seed": options.seed + number, "image": f"{FOLDER}/{number:04d}.png"}
            pixels = document.generation_pixels[0]  # the first one: prompts after a generated image are not drawn
            assert pixels is not None
            line["true_image"] = f"{FOLDER}/{number:04d}-true.png"
            true_images.append(Image.fromarray(pixels))
            all_images.append(image)
            image.save(out / line["image"])
            true_images[-1].save(out / line["true_image"])
            if prompt.num_images:
                line["input_image"] = f"{FOLDER}/{number:04d}-input.png"
                Image.fromarray(document.understanding_pixels[0]).save(out / line["input_image"])
            lines.append(line)
        on_images(len(chunk))
    return lines, all_images, true_images


def _generate(
    loaded: LoadedModel, prompts: Sequence[Prompt], documents: Sequence[Document], options: DrawOptions, first: int
) -> list[Image.Image]:
    janus, encoder = loaded.janus, loaded.encoder
    temperature = loaded.temperature if options.temperature is None else options.temperature
    features = []
    if any(prompt.num_images for prompt in prompts):
        empty = janus.lm_head.weight.new_zeros(0, encoder.tokens_per_image, janus.config.text_config.hidden_size)
        for prompt, document in zip(prompts, documents, strict=True):
            images = [Image.fromarray(pixels) for pixels in document.understanding_pixels[: prompt.num_images]]
            features.append(image_features(janus, encoder, images) if images else empty)
    return generate_images(
        janus,
        [prompt.prompt_ids.tolist() for prompt in prompts],
        pad_id=encoder.special.pad,
        guidance=loaded.guidance if options.guidance is None else options.guidance,
        temperature=temperature,
        seeds=[options.seed + first + number for number in range(len(prompts))],
        greedy=temperature == 0,
        batch_size=options.batch_size,
        image_features=features,
    )

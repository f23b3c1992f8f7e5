"""Generates images from prompts and writes them to a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from janus_train.data.prompt_format import OWN_STYLE, PromptStyle
from janus_train.errors import UserError
from janus_train.infer.generate import ImageProgress
from janus_train.infer.image_grid import GeneratedImage, image_names, write_image_folder
from janus_train.infer.load import LoadedModel


def generate_folder(
    loaded: LoadedModel,
    out: Path,
    prompts: Sequence[str],
    *,
    model: str,
    num_images: int,
    seed: int,
    guidance: float | None = None,
    temperature: float | None = None,
    top_k: int = 0,
    top_p: float = 1.0,
    style: PromptStyle = OWN_STYLE,
    images: Sequence[Image.Image] = (),
    image_guidance: float | None = None,
    batch_size: int = 16,
    progress: ImageProgress | None = None,
) -> list[Path]:
    """Generates ``num_images`` per prompt, with consecutive seeds from ``seed`` on, and writes them to ``out``.

    ``model`` is the model's name in metadata.jsonl; ``images`` are part of every prompt; ``progress`` gets the number of
    images finished since its last call. Returns the images' paths. Files of the same names in ``out`` are replaced, others
    stay. metadata.jsonl has ``image_guidance``, ``top_k``, ``top_p`` and ``style`` only as far as they differ from the defaults. Raises `UserError` if ``out`` cannot be written; nothing is written then.
    """
    guidance = loaded.guidance if guidance is None else guidance
    temperature = loaded.temperature if temperature is None else temperature
    texts = [text for text in prompts for _ in range(num_images)]
    seeds = [seed + number for number in range(len(texts))]
    outputs = loaded.generate(
        texts,
        seeds=seeds,
        guidance=guidance,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        style=style,
        images=images,
        image_guidance=image_guidance,
        batch_size=batch_size,
        progress=progress,
    )
    entries = [
        GeneratedImage(*entry)
        for entry in zip(outputs, texts, seeds, image_names(len(prompts), num_images, seed), strict=True)
    ]
    given = {
        "image_guidance": image_guidance,
        "top_k": top_k or None,
        "top_p": top_p if top_p < 1 else None,
        "system": style.system,
        "user_role": style.user,
        "assistant_role": style.assistant,
    }
    settings = {"guidance": guidance, "temperature": temperature, "model": model}
    settings |= {name: value for name, value in given.items() if value is not None}
    try:
        write_image_folder(out, entries, settings)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror or error}") from None
    return [out / entry.file for entry in entries]

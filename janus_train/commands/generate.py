"""``janus-train generate``: generates images from prompts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from janus_train.commands.options import (
    Adapters,
    AssistantRole,
    BatchSize,
    Device,
    Guidance,
    ImageGuidance,
    Images,
    Model,
    Precision,
    Seed,
    Temperature,
    TopK,
    TopP,
    UserRole,
    check_finite,
    check_top_p,
    load,
    name_of,
    open_image_option,
)
from janus_train.commands.terminal import count_bar
from janus_train.errors import UserError
from janus_train.targets import check_new_files


def generate(
    model: Model,
    adapter: Adapters = None,
    prompt: Annotated[list[str] | None, typer.Option(help="What to generate; repeat the option for several.")] = None,
    prompts_file: Annotated[
        Path | None, typer.Option(help="Text file with one prompt per line, used after those of --prompt.")
    ] = None,
    image: Images = None,
    num_images: Annotated[int, typer.Option(min=1, help="Number of images per prompt.")] = 16,
    guidance: Guidance = None,
    image_guidance: ImageGuidance = None,
    temperature: Temperature = None,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    system: Annotated[
        str, typer.Option(help="System prompt before the prompt; there is none in official image prompts.")
    ] = "",
    user_role: UserRole = None,
    assistant_role: AssistantRole = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for the images; other files in it stay.")] = Path(
        "outputs/generated"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of the same names in --out.")] = False,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Generate images from prompts, or edit images by prompts.

    Writes one PNG per image, grid.png (a new row for each prompt), and metadata.jsonl with one line per image: prompt,
    seed, guidance, temperature, model and file, and whichever of image_guidance, top_k, top_p, system, user_role and assistant_role is
    given. An image depends only on its prompt and its seed, not on the batch size or the other images. With --image the
    model sees that image together with every prompt.

    \b
    Examples:
      janus-train generate outputs/demo/stage3/final --prompt "a red apple on a blue background"
      janus-train generate outputs/demo/stage3/final --prompts-file prompts.txt --num-images 4 --out images
      janus-train generate outputs/edit/final --image cat.jpg --prompt "Make it snow." --guidance 5 --image-guidance 1.5
    """
    from janus_train.infer.image_grid import GRID, METADATA, image_names
    from janus_train.infer.prompts import collect_prompts

    prompts = collect_prompts(prompt or [], prompts_file)
    check_finite(guidance, temperature, image_guidance)
    if image_guidance is not None and not image:
        raise UserError("--image-guidance is the scale of the guidance by an image: name one with --image")
    check_top_p(top_p)
    check_new_files(out, [*image_names(len(prompts), num_images, seed), GRID, METADATA], overwrite)
    images = [open_image_option(path) for path in image or []]
    loaded_model = load(model, adapter, device, precision)
    from janus_train.data.prompt_format import PromptStyle
    from janus_train.infer.generate_folder import generate_folder

    with count_bar("images") as bar:
        task = bar.add_task("", total=len(prompts) * num_images)
        paths = generate_folder(
            loaded_model,
            out,
            prompts,
            model=name_of(model, adapter),
            num_images=num_images,
            seed=seed,
            guidance=guidance,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            style=PromptStyle(user_role or None, assistant_role or None, system or None),
            images=images,
            image_guidance=image_guidance,
            batch_size=batch_size,
            progress=partial(bar.advance, task),
        )
    for path in paths:
        print(path)

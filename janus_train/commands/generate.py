"""``janus-train generate``: pictures from prompts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from janus_train.commands.model_options import (
    Device,
    Guidance,
    Model,
    Precision,
    Seed,
    Temperature,
    check_finite,
    check_writable,
    load,
    open_picture,
)
from janus_train.commands.terminal import count_bar
from janus_train.errors import UserError


def generate(
    model: Model,
    prompt: Annotated[list[str] | None, typer.Option(help="What to draw; may be given several times.")] = None,
    prompts_file: Annotated[
        Path | None, typer.Option(help="A text file with a prompt a line, after --prompt's.")
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(help="A picture to draw from, with every prompt (editing); may be given several times."),
    ] = None,
    num_images: Annotated[int, typer.Option(min=1, help="Pictures a prompt.")] = 16,
    guidance: Guidance = None,
    temperature: Temperature = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for the pictures: a new or an empty one.")] = Path(
        "outputs/generated"
    ),
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time. It changes speed and memory only.")] = 16,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Draw pictures from prompts, or from prompts and pictures.

    Writes a PNG a picture, grid.png (a prompt's pictures in rows of their own), and metadata.jsonl, a line a picture: prompt,
    seed, guidance, temperature, model, file. A picture depends on its prompt and its seed, not on what is drawn with it.
    """
    prompts = _prompts(prompt or [], prompts_file)
    check_finite(guidance, temperature)
    check_writable(out)
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"--out {out} holds files already: give a new folder")
    check_writable(out.absolute().parent)
    given = [open_picture(path) for path in image or []]
    loaded = load(model, device, precision)
    from janus_train.infer.image_grid import GeneratedImage, write_image_folder

    guidance = loaded.guidance if guidance is None else guidance
    temperature = loaded.temperature if temperature is None else temperature
    texts = [text for text in prompts for _ in range(num_images)]
    seeds = [seed + number for number in range(len(texts))]
    with count_bar("pictures") as bar:
        task = bar.add_task("", total=len(texts))
        pictures = loaded.generate(
            texts,
            seeds=seeds,
            guidance=guidance,
            temperature=temperature,
            images=given,
            batch_size=batch_size,
            progress=partial(bar.advance, task),
        )
    drawn = [
        GeneratedImage(picture, text, own, f"{number // num_images:03d}-{own}.png")
        for number, (picture, text, own) in enumerate(zip(pictures, texts, seeds, strict=True))
    ]
    try:
        write_image_folder(out, drawn, {"guidance": guidance, "temperature": temperature, "model": model})
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror or error}") from None
    for one in drawn:
        print(out / one.file)


def _prompts(given: list[str], file: Path | None) -> list[str]:
    if any(not text.strip() for text in given):
        raise UserError("--prompt is empty: say what to draw")
    lines: list[str] = []
    if file is not None:
        try:
            lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except FileNotFoundError:
            raise UserError(f"--prompts-file {file}: there is no such file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--prompts-file {file} cannot be read as UTF-8 text: {error}") from None
        if not lines:
            raise UserError(f"--prompts-file {file} holds no prompt: write one a line")
    if not given and not lines:
        raise UserError("nothing to draw: give --prompt TEXT, or --prompts-file FILE with a prompt a line")
    return [*given, *lines]

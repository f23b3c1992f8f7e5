"""Writes generated images as files: PNGs, a grid, and a record of how each was generated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from janus_train.files import staged_folder
from janus_train.jsonl import write_json_lines

MAX_COLUMNS, MAX_IMAGES = 8, 256
"""The most columns of a grid, and the most images that it shows (the first ones)."""
GRID, METADATA = "grid.png", "metadata.jsonl"


@dataclass(frozen=True)
class GeneratedImage:
    """An image and what it was generated from."""

    image: Image.Image
    prompt: str
    seed: int
    file: str


def image_names(num_prompts: int, num_images: int, seed: int) -> list[str]:
    """The images' files, ``PROMPT-SEED.png``, for ``num_images`` of each prompt with consecutive seeds from ``seed`` on."""
    return [f"{number // num_images:03d}-{seed + number}.png" for number in range(num_prompts * num_images)]


def write_image_folder(out: Path, images: Sequence[GeneratedImage], settings: dict[str, Any]) -> None:
    """Writes the images, grid.png, and metadata.jsonl with one line per image, ``settings`` in each; other files stay.

    Raises:
        OSError: the disk is full, or the folder cannot be created; nothing is written then.
    """
    with staged_folder(out.absolute(), keep=True) as folder:
        for item in images:
            item.image.save(folder / item.file)
        groups = [
            [item.image for item in group] for _, group in groupby(images[:MAX_IMAGES], key=lambda item: item.prompt)
        ]
        grid(groups).save(folder / GRID)
        lines = [{"prompt": item.prompt, "seed": item.seed, **settings, "file": item.file} for item in images]
        write_json_lines(folder / METADATA, lines)


def grid(groups: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Puts images of one size into a grid; each group begins a row, and one of more than `MAX_COLUMNS` becomes a square."""
    largest = max(map(len, groups))
    columns = largest if largest <= MAX_COLUMNS else min(MAX_COLUMNS, math.isqrt(largest - 1) + 1)
    rows = [group[start : start + columns] for group in groups for start in range(0, len(group), columns)]
    width, height = groups[0][0].size
    sheet = Image.new("RGB", (columns * width, len(rows) * height), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image, (x * width, y * height))
    return sheet

"""Generated images as files: PNGs, a grid, and how each was generated."""

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
"""A grid has at most so many columns, and shows at most so many images (its first ones)."""


@dataclass(frozen=True)
class GeneratedImage:
    """An image and what it was generated from."""

    image: Image.Image
    prompt: str
    seed: int
    file: str


def write_image_folder(out: Path, images: Sequence[GeneratedImage], how: dict[str, Any]) -> None:
    """Writes ``out`` in one rename: the images, grid.png, and metadata.jsonl with one line per image, ``how`` in each.

    Raises:
        OSError: the disk is full, or the folder cannot be made; nothing is left of it then.
    """
    with staged_folder(out.absolute()) as folder:
        for item in images:
            item.image.save(folder / item.file)
        shown = [
            [item.image for item in group] for _, group in groupby(images[:MAX_IMAGES], key=lambda item: item.prompt)
        ]
        grid(shown).save(folder / "grid.png")
        lines = [{"prompt": item.prompt, "seed": item.seed, **how, "file": item.file} for item in images]
        write_json_lines(folder / "metadata.jsonl", lines)


def grid(groups: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Images of one size side by side; each group begins a row, and one of more than `MAX_COLUMNS` becomes a square."""
    most = max(map(len, groups))
    columns = most if most <= MAX_COLUMNS else min(MAX_COLUMNS, math.isqrt(most - 1) + 1)
    rows = [group[start : start + columns] for group in groups for start in range(0, len(group), columns)]
    width, height = groups[0][0].size
    sheet = Image.new("RGB", (columns * width, len(rows) * height), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image, (x * width, y * height))
    return sheet

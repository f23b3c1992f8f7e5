"""What benchmarks of generation share: images drawn by a protocol, each from a seed of its own, into one folder.

    prompt, sample, --seed -> the image's seed -> codes -> TASK/images/...png

An image's seed depends on nothing else, so on a CPU an image is the same to the last bit in any batch and on any number of
processes. On a GPU the language model rounds by the batch, which changes a code once in a while.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.protocol import Protocol
from janus_train.evaluate.benchmarks.registry import Context
from janus_train.evaluate.benchmarks.result import Result
from janus_train.infer.decoding import check_fits
from janus_train.infer.generate import tokens_per_image
from janus_train.jsonl import Line

IMAGES = "images"
"""The folder of a task's images, in the layout that its scorer reads."""


@dataclass(frozen=True)
class Drawing:
    """One file to draw. ``key``: its path below `IMAGES`; ``samples``: the numbers of the images in it, of one prompt."""

    key: str
    prompt: str
    samples: tuple[int, ...]


def image_seed(seed: int, prompt: str, sample: int) -> int:
    """Returns the seed of a prompt's image number ``sample``; other prompts and samples have unrelated ones."""
    digest = hashlib.sha256(json.dumps([seed, prompt, sample]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2  # 62 bits: seeds are below 2**62 everywhere


class OpenDrawings(ABC):
    """A benchmark of generation whose prompts are read: draws them, and scores them once a scorer has judged them."""

    def __init__(self, protocol: Protocol, files: Sequence[Path], drawings: Sequence[Drawing]):
        self._generation, self._drawings = protocol.generation, drawings
        self.style = protocol.generation.style()
        self.files = files
        self.keys: Sequence[str] = [drawing.key for drawing in drawings]
        values = [protocol.generation.model_dump(), [[each.key, each.prompt, each.samples] for each in drawings]]
        self.prompts_digest = hashlib.sha256(json.dumps(values).encode()).hexdigest()

    def answer(self, context: Context, numbers: Sequence[int]) -> list[Line]:
        """Draws and writes the files of ``numbers``."""
        drawings = [self._drawings[number] for number in numbers]
        self._check_length(context, drawings)
        seeds = [image_seed(context.seed, each.prompt, sample) for each in drawings for sample in each.samples]
        images = context.model.generate(
            [each.prompt for each in drawings for _ in each.samples],
            seeds=seeds,
            guidance=self._generation.guidance,
            temperature=self._generation.temperature,
            top_k=self._generation.top_k,
            top_p=self._generation.top_p,
            batch_size=context.batch_size,
            style=self.style,
        )
        lines, start = [], 0
        for drawing, number in zip(drawings, numbers, strict=True):
            end = start + len(drawing.samples)
            self.write(context.folder / IMAGES, number, images[start:end])
            lines.append({"key": drawing.key, "prompt": drawing.prompt, "seeds": seeds[start:end]})
            start = end
        return lines

    def score(self, lines: Sequence[Line], folder: Path) -> Result:
        """Scores from the judgements in the task's folder. Raises `UserError` if an image is gone from it."""
        gone = [line["key"] for line in lines if not (folder / IMAGES / line["key"]).is_file()]
        if gone:
            raise UserError(
                f"{folder / IMAGES / gone[0]} was drawn and is gone ({len(gone)} images are): put it back, or delete {folder}"
            )
        return self.score_images(folder)

    @abstractmethod
    def write(self, folder: Path, number: int, images: Sequence[Image.Image]) -> None:
        """Writes the file of drawing ``number`` into the folder of images."""

    @abstractmethod
    def score_images(self, folder: Path) -> Result:
        """Scores all images, or says how to get them judged."""

    @abstractmethod
    def check_judgements(self, file: Path) -> None:
        """Reads what a scorer wrote. Raises `UserError` for a file that is not about these prompts."""

    def _check_length(self, context: Context, drawings: Sequence[Drawing]) -> None:
        janus, encoder = context.model.janus, context.model.encoder
        for each in drawings:
            try:
                ids = encoder.generation_prompt_ids(each.prompt, style=self.style)
                check_fits(janus, len(ids), tokens_per_image(janus), "of an image")
            except UserError as error:
                raise UserError(f"{each.key}: {error}") from None

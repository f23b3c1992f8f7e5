"""What is in an image of a scene, found without a neural network: background, layout, objects.

    image -> background: palette colour nearest to the border's median
            -> mask of the pixels that differ from the border
            -> layout: the one whose average silhouette explains the mask best (count and places follow from it)
            -> objects: at each place, all objects of the library ranked by mean squared error

It knows how scenes are composed (scenes.py: sizes and places) and nothing about what was asked for. Its accuracy on
true images is measured beside every result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageFilter

from janus_train.data.scene_things import BACKGROUNDS, PLACES_OF_COUNT, SIDES, UNIT, Library, spot

BORDER = 2
"""Width in pixels of the frame that shows the background."""
PALETTE_LIMIT = 60.0
"""A border farther than this (RGB distance) from every palette colour has none of them; orange and yellow are 87 apart."""
DIFFERS = 20.0
"""RGB distance from the border's colour from which on a pixel, averaged with its neighbours, belongs to an object.
Layouts right at 12, 20, 30: true images 99, 99, 98 %, VQ round trips 98, 98, 98 %, noise of 14 levels 95, 99, 99 %;
without the averaging noise leaves 74 % at 20."""
CELL = 4
"""Masks are compared in cells of so many pixels a side."""
DOUBT = 0.02
"""No silhouette is surer than this that a cell is, or is not, part of an object."""
SHIFTS = 2
"""Objects are looked for up to so many pixels beside their place, in both directions."""
BLUR, MARGIN = 1.5, 4
"""Objects are compared blurred by so many pixels, as a small VQ tokenizer draws them, in a window so much wider on each
side. Nearest object right without blur, with 1.0 and 1.5: true images 99, 98, 98 %, VQ round trips 48, 73, 80 %."""
LARGE = 40
"""Windows of so many pixels a side are compared at half of it."""


@dataclass(frozen=True)
class Slot:
    """A place of a layout: its middle and side in pixels of an image of `UNIT` pixels."""

    place: str
    x: int
    y: int
    side: int


@dataclass(frozen=True)
class Found:
    """One object in an image: where it is, and how far it is from each object of the library (mean squared error)."""

    slot: Slot
    distances: np.ndarray  # (objects,) float32

    def rank(self, number: int) -> int:
        """0 if object ``number`` is the nearest of all."""
        return int((self.distances < self.distances[number]).sum())


@dataclass(frozen=True)
class Detection:
    """All that was found. ``background`` is None if the border has no colour of the palette."""

    background: str | None
    found: tuple[Found, ...]

    @property
    def places(self) -> tuple[str, ...]:
        return tuple(found.slot.place for found in self.found)

    def at(self, place: str) -> Found | None:
        return next((found for found in self.found if found.slot.place == place), None)


def _layouts() -> Iterator[tuple[Slot, ...]]:
    yield ()
    for number, arrangements in PLACES_OF_COUNT.items():
        for side in SIDES.values() if number == 1 else [SIDES["small"]]:
            for places in arrangements:
                yield tuple(Slot(place, *spot(place, side, number), side) for place in places)


LAYOUTS = tuple(_layouts())
"""Every arrangement that scenes are composed in, and the empty one."""


class Detector:
    """For a library of objects (`detector_of`); `detect` takes any image."""

    def __init__(self, objects: Library):
        self.objects = objects
        self._blurred = lru_cache(maxsize=None)(self._blur_all)
        self._templates = lru_cache(maxsize=64)(self._make_templates)
        self.silhouettes = np.stack([self._silhouette(layout) for layout in LAYOUTS])  # (layouts, cells)

    @property
    def num_objects(self) -> int:
        return len(self.objects.things)

    def detect(self, image: Image.Image) -> Detection:
        image = image.convert("RGB")
        if image.size != (UNIT, UNIT):
            image = image.resize((UNIT, UNIT), Image.Resampling.BOX)
        pixels = np.asarray(image, np.float32)  # (64, 64, 3)
        ground = border_colour(pixels)
        calm = np.asarray(image.filter(ImageFilter.BoxBlur(1)), np.float32)
        mask = np.linalg.norm(calm - ground, axis=-1) > DIFFERS
        layout = LAYOUTS[int(self._explains(mask).argmax())]
        background = nearest_background(ground)
        colour = BACKGROUNDS[background] if background else tuple(int(c) for c in ground)
        found = tuple(Found(slot, self._distances(pixels, slot, colour)) for slot in layout)
        return Detection(background, found)

    def _explains(self, mask: np.ndarray) -> np.ndarray:
        """(layouts,) log-likelihood of the mask's cells under each layout's average silhouette."""
        cells = _cells(mask.astype(np.float32))
        return cells @ np.log(self.silhouettes).T + (1 - cells) @ np.log(1 - self.silhouettes).T

    def _silhouette(self, layout: tuple[Slot, ...]) -> np.ndarray:
        """How likely each cell is covered: the mean over all objects' opaque pixels, at each slot."""
        cover = np.zeros((UNIT, UNIT), np.float32)
        for slot in layout:
            opaque = [np.asarray(self.objects.image(n, slot.side))[..., 3] > 127 for n in range(self.num_objects)]
            top, left = round(slot.y - slot.side / 2), round(slot.x - slot.side / 2)
            cover[top : top + slot.side, left : left + slot.side] = np.mean(opaque, axis=0)
        return np.clip(_cells(cover), DOUBT, 1 - DOUBT)

    def _distances(self, pixels: np.ndarray, slot: Slot, colour: tuple[int, ...]) -> np.ndarray:
        """(objects,) least mean squared error over the shifts, of each object drawn on ``colour``."""
        around, side = MARGIN + SHIFTS + 1, slot.side + 2 * MARGIN
        padded = np.pad(pixels, ((around, around), (around, around), (0, 0)), mode="edge")
        top, left = round(slot.y - side / 2) + around, round(slot.x - side / 2) + around
        steps = range(-SHIFTS, SHIFTS + 1)
        corners = [(top + dy, left + dx) for dy in steps for dx in steps]
        windows = np.stack([padded[y : y + side, x : x + side] for y, x in corners])
        seen = torch.from_numpy(_small(windows))  # (shifts, values)
        templates, squares = self._templates(slot.side, colour)
        errors = (seen**2).sum(1)[:, None] - 2 * seen @ templates.T + squares[None]  # (shifts, objects)
        return (errors.amin(0) / seen.shape[1]).numpy()

    def _make_templates(self, side: int, colour: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """(objects, values) float32 of all objects drawn on ``colour``, and (objects,) their squared norms."""
        blurred = self._blurred(side)
        drawn = blurred[..., :3] + np.asarray(colour, np.float32) * (1 - blurred[..., 3:] / 255)
        templates = torch.from_numpy(_small(drawn))  # torch, not numpy: one thread pool for everything
        return templates, (templates**2).sum(1)

    def _blur_all(self, side: int) -> np.ndarray:
        """(objects, h, w, 4) float32, premultiplied: blurring is linear, so the background can be put below later."""
        rows = []
        for number in range(self.num_objects):
            canvas = Image.new("RGBA", (side + 2 * MARGIN,) * 2)
            canvas.paste(self.objects.image(number, side), (MARGIN, MARGIN))
            rows.append(np.asarray(canvas.convert("RGBa").filter(ImageFilter.GaussianBlur(BLUR)), np.float32))
        return np.stack(rows)


@lru_cache(maxsize=2)
def detector_of(objects: Library) -> Detector:
    """The library's detector, made once: it keeps every object at every size on every background."""
    return Detector(objects)


def border_colour(pixels: np.ndarray) -> np.ndarray:
    """(3,) median of the frame's pixels: an object that reaches the border on one side does not move it."""
    inner = np.zeros(pixels.shape[:2], bool)
    inner[BORDER:-BORDER, BORDER:-BORDER] = True
    return np.median(pixels[~inner], axis=0)


def nearest_background(colour: np.ndarray) -> str | None:
    """The palette's colour next to ``colour``; None if all are far."""
    far = {name: float(np.linalg.norm(colour - np.asarray(rgb))) for name, rgb in BACKGROUNDS.items()}
    best = min(far, key=far.__getitem__)
    return best if far[best] <= PALETTE_LIMIT else None


def _small(images: np.ndarray) -> np.ndarray:
    """(N, side, side, 3) -> (N, values): large ones at half the size, which finds the same objects in a quarter of the time."""
    side = images.shape[1]
    if side >= LARGE and side % 2 == 0:
        images = images.reshape(len(images), side // 2, 2, side // 2, 2, 3).mean(axis=(2, 4))
    return images.reshape(len(images), -1)


def _cells(values: np.ndarray) -> np.ndarray:
    """(64, 64) -> (256,) means over cells."""
    side = UNIT // CELL
    return values.reshape(side, CELL, side, CELL).mean(axis=(1, 3)).ravel()

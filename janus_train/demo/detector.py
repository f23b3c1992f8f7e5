"""Detects background, layout and objects in an image of a scene, without a neural network.

    image -> background: palette colour nearest to the border's median
            -> mask of the pixels that differ from the border
            -> layout: the one whose average silhouette explains the mask best (count and places follow from it)
            -> objects: at each place, all objects of the library ranked by mean squared error

It knows how scenes are composed (objects.py: sizes and places), but not the prompt. Its accuracy on true images is
measured beside every result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageFilter

from janus_train.demo.objects import BACKGROUNDS, PLACES_OF_COUNT, SIDES, UNIT, Library, center_of

BORDER = 2
"""Width in pixels of the frame that shows the background."""
PALETTE_LIMIT = 60.0
"""A border farther than this (RGB distance) from every palette colour has none of them; orange and yellow are 87 apart."""
DIFFERS = 20.0
"""A pixel, averaged with its neighbours, belongs to an object from this RGB distance to the border's colour on.
Layouts right at 12, 20, 30: true images 99, 99, 98 %, VQ round trips 98, 98, 98 %, noise of 14 levels 95, 99, 99 %;
without the averaging noise leaves 74 % at 20."""
CELL = 4
"""Masks are compared in cells of this many pixels per side."""
DOUBT = 0.02
"""A silhouette's probabilities are at least this far from 0 and 1."""
SHIFTS = 2
"""Objects are searched up to this many pixels beside their place, in both directions."""
BLUR, MARGIN = 1.5, 4
"""Objects are compared with this blur in pixels, as a small VQ tokenizer draws them, and with this margin around them.
Nearest object right without blur, with 1.0 and 1.5: true images 99, 98, 98 %, VQ round trips 48, 73, 80 %."""
LARGE = 40
"""Windows of at least this many pixels per side are compared at half the size."""


@dataclass(frozen=True)
class Slot:
    """A place of a layout: its center and side in pixels of an image of `UNIT` pixels."""

    place: str
    x: int
    y: int
    side: int


@dataclass(frozen=True)
class DetectedObject:
    """One object in an image: its place, and its distance from each object of the library (mean squared error)."""

    slot: Slot
    distances: np.ndarray  # (objects,) float32

    def rank(self, number: int) -> int:
        """0 if object ``number`` is the nearest of all."""
        return int((self.distances < self.distances[number]).sum())


@dataclass(frozen=True)
class Detection:
    """The result for an image. ``background`` is None if the border has no colour of the palette."""

    background: str | None
    objects: tuple[DetectedObject, ...]

    @property
    def places(self) -> tuple[str, ...]:
        return tuple(detected_object.slot.place for detected_object in self.objects)

    def at(self, place: str) -> DetectedObject | None:
        return next((detected_object for detected_object in self.objects if detected_object.slot.place == place), None)


def _layouts() -> Iterator[tuple[Slot, ...]]:
    yield ()
    for number, arrangements in PLACES_OF_COUNT.items():
        for side in SIDES.values() if number == 1 else [SIDES["small"]]:
            for places in arrangements:
                yield tuple(Slot(place, *center_of(place, side, number), side) for place in places)


LAYOUTS = tuple(_layouts())
"""All arrangements of scenes, and the empty one."""


class Detector:
    """Detects the objects of a library (`detector_of`) in images of any size."""

    def __init__(self, library: Library):
        self.library = library
        self._cached_blur = lru_cache(maxsize=None)(self._blur_all)
        self._templates = lru_cache(maxsize=64)(self._make_templates)
        self.silhouettes = np.stack([self._silhouette(layout) for layout in LAYOUTS])  # (layouts, cells)

    @property
    def num_objects(self) -> int:
        return len(self.library.objects)

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
        detected_objects = tuple(DetectedObject(slot, self._distances(pixels, slot, colour)) for slot in layout)
        return Detection(background, detected_objects)

    def _explains(self, mask: np.ndarray) -> np.ndarray:
        """(layouts,) log-likelihood of the mask's cells under each layout's average silhouette."""
        cells = _cells(mask.astype(np.float32))
        return cells @ np.log(self.silhouettes).T + (1 - cells) @ np.log(1 - self.silhouettes).T

    def _silhouette(self, layout: tuple[Slot, ...]) -> np.ndarray:
        """The probability that each cell is covered: the mean over all objects' opaque pixels, at each slot."""
        cover = np.zeros((UNIT, UNIT), np.float32)
        for slot in layout:
            opaque = [np.asarray(self.library.image(n, slot.side))[..., 3] > 127 for n in range(self.num_objects)]
            top, left = round(slot.y - slot.side / 2), round(slot.x - slot.side / 2)
            cover[top : top + slot.side, left : left + slot.side] = np.mean(opaque, axis=0)
        return np.clip(_cells(cover), DOUBT, 1 - DOUBT)

    def _distances(self, pixels: np.ndarray, slot: Slot, colour: tuple[int, ...]) -> np.ndarray:
        """(objects,) smallest mean squared error over the shifts, for each object drawn on ``colour``."""
        around, side = MARGIN + SHIFTS + 1, slot.side + 2 * MARGIN
        padded_pixels = np.pad(pixels, ((around, around), (around, around), (0, 0)), mode="edge")
        top, left = round(slot.y - side / 2) + around, round(slot.x - side / 2) + around
        steps = range(-SHIFTS, SHIFTS + 1)
        corners = [(top + dy, left + dx) for dy in steps for dx in steps]
        windows = np.stack([padded_pixels[y : y + side, x : x + side] for y, x in corners])
        values = torch.from_numpy(_small(windows))  # (shifts, values)
        templates, squares = self._templates(slot.side, colour)
        errors = (values**2).sum(1)[:, None] - 2 * values @ templates.T + squares[None]  # (shifts, objects)
        return (errors.amin(0) / values.shape[1]).numpy()

    def _make_templates(self, side: int, colour: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """(objects, values) float32 of all objects drawn on ``colour``, and (objects,) their squared norms."""
        objects = self._cached_blur(side)
        images = objects[..., :3] + np.asarray(colour, np.float32) * (1 - objects[..., 3:] / 255)
        templates = torch.from_numpy(_small(images))  # torch, not numpy: one thread pool for everything
        return templates, (templates**2).sum(1)

    def _blur_all(self, side: int) -> np.ndarray:
        """(objects, side, side, 4) float32, premultiplied: blurring is linear, so the background can be added later."""
        rows = []
        for number in range(self.num_objects):
            canvas = Image.new("RGBA", (side + 2 * MARGIN,) * 2)
            canvas.paste(self.library.image(number, side), (MARGIN, MARGIN))
            rows.append(np.asarray(canvas.convert("RGBa").filter(ImageFilter.GaussianBlur(BLUR)), np.float32))
        return np.stack(rows)


@lru_cache(maxsize=2)
def detector_of(library: Library) -> Detector:
    """The library's detector, made once because it caches every object at every size on every background."""
    return Detector(library)


def border_colour(pixels: np.ndarray) -> np.ndarray:
    """(3,) median of the frame's pixels, which an object that reaches the border on one side does not change."""
    inner = np.zeros(pixels.shape[:2], bool)
    inner[BORDER:-BORDER, BORDER:-BORDER] = True
    return np.median(pixels[~inner], axis=0)


def nearest_background(colour: np.ndarray) -> str | None:
    """The palette's colour nearest to ``colour``; None if all are too far."""
    distances = {name: float(np.linalg.norm(colour - np.asarray(rgb))) for name, rgb in BACKGROUNDS.items()}
    nearest = min(distances, key=distances.__getitem__)
    return nearest if distances[nearest] <= PALETTE_LIMIT else None


def _small(images: np.ndarray) -> np.ndarray:
    """(N, side, side, 3) -> (N, values): large windows at half the size, which takes a quarter of the time."""
    side = images.shape[1]
    if side >= LARGE and side % 2 == 0:
        images = rearrange(images, "n (h a) (w b) c -> n h a w b c", a=2, b=2).mean(axis=(2, 4))
    return rearrange(images, "n h w c -> n (h w c)")


def _cells(values: np.ndarray) -> np.ndarray:
    """(64, 64) -> (256,) means over cells."""
    return rearrange(values, "(h a) (w b) -> (h w) (a b)", a=CELL, b=CELL).mean(axis=1)

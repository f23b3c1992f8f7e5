"""Detects background, layout and objects in an image of a scene, without a neural network.

    image -> for each cell: how far it is from each background, and from the frame of a card at each place
          -> background and cards that explain the cells best (count, places and sizes follow from them)
          -> objects: on each card, the nearest of all objects of the library

It knows how scenes are composed (objects.py: colours, cells and cards), but neither the prompt nor how many objects a scene
has. Its accuracy on true images is measured beside every result.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageFilter

from janus_train.demo.objects import BACKGROUNDS, CARD, CARD_EDGE, CELL, PLACES, SIDES, UNIT, Library, center_of

FAR = 80.0
"""Mean RGB distance from which on a cell is simply another one. One wrong cell then weighs no more than a right one, and
among the cells of a card or of the background the majority decides."""
NO_BACKGROUND = 0.5
"""A cell of none of the backgrounds' colours, as a share of `FAR`; orange and yellow are 87 apart, so 40 is not near."""
FRAME = 3
"""Width in pixels of the frame by which a card is known: its edge and ground, where no object reaches."""
BLUR = 0.7
"""Objects are compared with this blur in pixels, because a small VQ tokenizer draws them softly."""


@dataclass(frozen=True)
class Slot:
    """A place for a card of one size."""

    place: str
    side: int

    @cached_property
    def pixels(self) -> tuple[slice, slice]:
        """The rows and columns of the card in an image of `UNIT` pixels."""
        x, y = (middle - self.side // 2 for middle in center_of(self.place, self.side))
        return slice(y, y + self.side), slice(x, x + self.side)

    @cached_property
    def cells(self) -> tuple[slice, slice]:
        """The rows and columns of its cells."""
        rows, columns = (slice(part.start // CELL, part.stop // CELL) for part in self.pixels)
        return rows, columns

    def beside(self) -> tuple[Slot, ...]:
        """The slots of small cards that do not overlap with it."""
        return tuple(
            small
            for small in SMALL
            if any(b.stop <= a.start or a.stop <= b.start for a, b in zip(self.cells, small.cells, strict=True))
        )


SMALL = tuple(Slot(place, SIDES["small"]) for place in PLACES)
"""Together they fill the image without overlap."""
LARGE = tuple(Slot(place, SIDES["large"]) for place in PLACES)
"""Two of them always overlap."""


@dataclass(frozen=True)
class DetectedObject:
    """A card in an image: where it is, its side, and the number of the object nearest to it."""

    place: str
    side: int
    number: int


@dataclass(frozen=True)
class Detection:
    """The result for an image. ``background`` is None if the cells without cards have no colour of the palette."""

    background: str | None
    objects: tuple[DetectedObject, ...]

    @property
    def places(self) -> tuple[str, ...]:
        return tuple(detected_object.place for detected_object in self.objects)

    def at(self, place: str) -> DetectedObject | None:
        return next((detected_object for detected_object in self.objects if detected_object.place == place), None)


class Detector:
    """Detects the objects of a library (`detector_of`) in images of any size."""

    def __init__(self, library: Library):
        self.library = library
        self._templates = lru_cache(maxsize=None)(self._make_templates)

    @property
    def num_objects(self) -> int:
        return len(self.library.objects)

    def detect(self, image: Image.Image) -> Detection:
        image = image.convert("RGB")
        if image.size != (UNIT, UNIT):
            image = image.resize((UNIT, UNIT), Image.Resampling.BOX)
        background, slots = explain(np.asarray(image, np.float32))
        soft_pixels = _blurred(image)
        return Detection(
            background, tuple(DetectedObject(s.place, s.side, self._nearest(soft_pixels, s)) for s in slots)
        )

    def _nearest(self, pixels: np.ndarray, slot: Slot) -> int:
        """The number of the object whose card differs least. A cell counts by the root of its mean squared error, so
        that one wrong cell does not outweigh all others."""
        templates, squares = self._templates(slot.side)
        card = torch.from_numpy(_cell_values(pixels[slot.pixels][None]))  # (cells, 1, values)
        errors = (card**2).sum(2, keepdim=True) - 2 * card @ templates.mT + squares[:, None]  # (cells, 1, objects)
        return int(errors.clamp(min=0).sqrt().sum(0).argmin())

    def _make_templates(self, side: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(cells, objects, values) float32 of all objects' cards, and (cells, objects) their squared norms."""
        cards = np.stack([_blurred(self.library.card(number, side)) for number in range(self.num_objects)])
        templates = torch.from_numpy(_cell_values(cards))  # torch, not numpy: one thread pool for everything
        return templates, (templates**2).sum(2)


@lru_cache(maxsize=2)
def detector_of(library: Library) -> Detector:
    """The library's detector, made once because it caches every object at every size."""
    return Detector(library)


def explain(pixels: np.ndarray) -> tuple[str | None, tuple[Slot, ...]]:
    """The background, None if it has no colour of the palette, and the cards that together explain all cells best."""
    grounds = _ground_costs(pixels)  # (backgrounds + 1, rows, columns)
    # What a card explains beyond each background; one that explains nothing is none.
    gains = {slot: grounds[:, *slot.cells].sum((1, 2)) - _frame_costs(pixels, slot).sum() for slot in (*SMALL, *LARGE)}
    layouts = [((), SMALL), *(((large,), large.beside()) for large in LARGE)]
    totals = np.stack(
        [
            sum(np.maximum(gains[slot], 0) for slot in small) + sum(gains[slot] for slot in large) - grounds.sum((1, 2))
            for large, small in layouts
        ]
    )
    layout, background = np.unravel_index(totals.argmax(), totals.shape)
    large, small = layouts[layout]
    names = (*BACKGROUNDS, None)
    return names[background], (*large, *(slot for slot in small if gains[slot][background] > 0))


def _ground_costs(pixels: np.ndarray) -> np.ndarray:
    """(backgrounds + 1, rows, columns) of how little each cell looks like each background, 0 to 1; the last is none."""
    colours = np.asarray(list(BACKGROUNDS.values()), np.float32)
    distances = np.linalg.norm(pixels - colours[:, None, None], axis=-1)
    costs = _share_of_far(rearrange(distances, "n (h a) (w b) -> n h w (a b)", a=CELL, b=CELL).mean(axis=-1))
    return np.concatenate([costs, np.full_like(costs[:1], NO_BACKGROUND)])


def _frame_costs(pixels: np.ndarray, slot: Slot) -> np.ndarray:
    """(rows, columns) of how little each cell of the slot looks like a card's, 0 to 1; inner cells look like anything."""
    card, is_frame = np.full((slot.side, slot.side, 3), CARD_EDGE, np.float32), np.ones((slot.side, slot.side))
    card[1:-1, 1:-1] = CARD
    is_frame[FRAME:-FRAME, FRAME:-FRAME] = 0
    distances = np.linalg.norm(pixels[slot.pixels] - card, axis=-1) * is_frame
    total, area = (
        rearrange(values, "(h a) (w b) -> h w (a b)", a=CELL, b=CELL).sum(axis=-1) for values in (distances, is_frame)
    )
    return np.where(area > 0, _share_of_far(total / np.maximum(area, 1)), NO_BACKGROUND)


def _share_of_far(distances: np.ndarray) -> np.ndarray:
    return np.minimum(distances / FAR, 1)


def _blurred(image: Image.Image) -> np.ndarray:
    return np.asarray(image.filter(ImageFilter.GaussianBlur(BLUR)), np.float32)


def _cell_values(images: np.ndarray) -> np.ndarray:
    """(N, side, side, 3) -> (cells, N, values)."""
    return rearrange(images, "n (h a) (w b) c -> (h w) n (a b c)", a=CELL, b=CELL)

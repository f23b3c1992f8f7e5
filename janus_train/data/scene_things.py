"""What composed scenes are made of: the objects of the shards, the backgrounds, and what a scene is.

In: shards of single objects on transparent ground (``class_name``, ``class_name_zh``, ``tags``, ``tags_zh``, ``group``,
``subgroup``). Out: `Thing`s and the images of them at any size, decoded once and kept; `Scene`, the description
that images and texts are both made from.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from PIL import Image

from janus_train.data.sources.shards import ShardSource
from janus_train.errors import UserError

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (247, 140, 30),
    "yellow": (252, 222, 60),
    "green": (60, 160, 75),
    "blue": (40, 90, 210),
    "purple": (130, 60, 170),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}
"""The flat background colours, RGB."""

NEUTRAL = (204, 204, 204)
"""The ground of a single object's class image: none of the backgrounds, so a class image is no combination."""

HELD_OUT_IN = 10
"""One label in so many is held out."""

NUM_SCENE_THINGS = 40
"""Scenes are composed of so many of the objects, taken by a hash of their names: in the minutes that a demo has, a model
of a million weights can learn the looks of these and not of all. Class images and texts show all of them."""

UNIT = 64
"""Places and sizes of a scene are in units of 1/64 of the image's side."""

SIDES = {"small": 28, "large": 44}
"""Sizes of things. Several things in one scene are small."""
MARGIN = 2
"""Room round a thing. With it `SIDES` are multiples of 8, and so are all distances of `spot`s: a thing's pixels fall
into the patches of both encoders (8 pixels a side in the tiny model) in the same way wherever it stands."""
PLACES = ("left", "right", "middle", "top", "bottom")
PLACES_OF_COUNT: dict[int, tuple[tuple[str, ...], ...]] = {
    1: tuple((place,) for place in PLACES),
    2: (("left", "right"), ("top", "bottom")),
    3: (("top", "left", "right"),),
}
"""Number of things -> the arrangements that scenes have."""


def spot(place: str, side: int, number: int = 1) -> tuple[int, int]:
    """The middle (x, y) of a thing at a place, in units; left and right are at the bottom if there are three."""
    low, middle, high = side // 2 + MARGIN, UNIT // 2, UNIT - side // 2 - MARGIN
    x = {"left": low, "right": high}.get(place, middle)
    y = {"top": low, "bottom": high}.get(place, high if number == 3 and place in ("left", "right") else middle)
    return x, y


def is_held_out(label: str) -> bool:
    """Whether the combination is kept for evaluation: decided by the label alone, before anything is composed."""
    return int(hashlib.sha256(label.encode()).hexdigest()[:8], 16) % HELD_OUT_IN == 0


@dataclass(frozen=True)
class Thing:
    """An object with an image."""

    number: int
    name: str
    name_zh: str
    tags: tuple[str, ...]
    tags_zh: tuple[str, ...]
    group: str
    subgroup: str


@dataclass(frozen=True)
class Placed:
    """A thing in a scene. ``x, y`` is its middle and ``side`` its size, in units of 1/64 of the image's side."""

    thing: Thing
    place: str  # left, right, middle, top or bottom
    x: int
    y: int
    side: int
    size_word: str = ""  # small or large, for a thing alone; otherwise empty


@dataclass(frozen=True)
class Scene:
    """One to three things on a flat background; `NEUTRAL` if it has no name."""

    placed: tuple[Placed, ...]
    background: str

    @property
    def label(self) -> str:
        """The combination: what is in the image, without where and how large."""
        return "+".join(sorted(p.thing.name for p in self.placed)) + "@" + self.background

    @property
    def held_out(self) -> bool:
        return is_held_out(self.label)


class Library:
    """All things of some shards, with their images. Raises `UserError` for a sample that is no object."""

    def __init__(self, shards: tuple[Path, ...]):
        self._source = ShardSource(list(shards))
        self._sized: dict[tuple[int, int], Image.Image] = {}

    @cached_property
    def things(self) -> list[Thing]:
        return [self._read(number) for number in range(len(self._source))]

    @cached_property
    def scene_things(self) -> list[Thing]:
        """The things that scenes are composed of, in the order of `things`."""
        by_hash = sorted(self.things, key=lambda thing: hashlib.sha256(thing.name.encode()).digest())
        return sorted(by_hash[:NUM_SCENE_THINGS], key=lambda thing: thing.number)

    def _read(self, number: int) -> Thing:
        record = self._source[number]
        f = record.fields
        try:
            if len(record.images) != 1:
                raise KeyError("picture")
            texts = [f[name] for name in ("class_name", "class_name_zh", "group", "subgroup")]
            return Thing(number, texts[0], texts[1], tuple(f["tags"]), tuple(f["tags_zh"]), texts[2], texts[3])
        except KeyError as missing:
            raise UserError(f"sample {record.key!r} cannot be put into scenes: it has no {missing.args[0]}") from None

    def image(self, number: int, side: int) -> Image.Image:
        """The thing's image, RGBA, ``side`` pixels a side; scaled once and kept (do not change it)."""
        found = self._sized.get((number, side))
        if found is None:
            whole = self._source[number].images[0].convert("RGBA")
            # Premultiplied while scaling: transparent pixels have no colour to give.
            found = whole.convert("RGBa").resize((side, side), Image.Resampling.LANCZOS).convert("RGBA")
            self._sized[number, side] = found
        return found


@lru_cache(maxsize=8)
def library(shards: tuple[Path, ...]) -> Library:
    """The library of these shards; one in a process, whoever asks."""
    return Library(shards)

"""The building blocks of scenes: objects, backgrounds, places, and the description of a scene.

In: shards of single objects on transparent ground (``class_name``, ``class_name_zh``, ``tags``, ``tags_zh``, ``group``,
``subgroup``). Out: `SceneObject`s and their images at any size, decoded once and cached; `Scene`, the description from
which both images and texts are made.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from PIL import Image

from janus_train.data.sources.shards import ShardSource
from janus_train.errors import UserError
from janus_train.paths import ROOT

SHARDS_FOLDER = ROOT / "data_recipes" / "demo" / "shards"
"""The embedded objects."""

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
"""The ground of a class image: it is none of the backgrounds, so a class image shows no combination."""

HELD_OUT_IN = 10
"""One in this many labels is held out."""

NUM_SCENE_OBJECTS = 40
"""Scenes are composed of this many objects, chosen by a hash of their names: in the few minutes of the demo, a model of a
million weights can learn the looks of these but not of all objects. Class images and texts use all objects."""

UNIT = 64
"""Positions and sizes in a scene are in units of 1/64 of the image's side."""

SIDES = {"small": 28, "large": 44}
"""Sizes of objects. Several objects in one scene are small."""
MARGIN = 2
"""Margin around an object. With it all sides and all distances between objects' centers are multiples of 8, so that
objects have the same position relative to the encoders' patches (8 x 8 pixels in the tiny model) at every place."""
PLACES = ("left", "right", "middle", "top", "bottom")
PLACES_OF_COUNT: dict[int, tuple[tuple[str, ...], ...]] = {
    1: tuple((place,) for place in PLACES),
    2: (("left", "right"), ("top", "bottom")),
    3: (("top", "left", "right"),),
}
"""Number of objects -> the possible arrangements."""


def embedded_shards() -> list[Path]:
    """The tars with the embedded objects, in their order."""
    return sorted(SHARDS_FOLDER.glob("*.tar"))


def center_of(place: str, side: int, number: int = 1) -> tuple[int, int]:
    """The center (x, y) of an object at a place, in units; left and right are at the bottom if there are three objects."""
    low, middle, high = side // 2 + MARGIN, UNIT // 2, UNIT - side // 2 - MARGIN
    x = {"left": low, "right": high}.get(place, middle)
    y = {"top": low, "bottom": high}.get(place, high if number == 3 and place in ("left", "right") else middle)
    return x, y


def is_held_out(label: str) -> bool:
    """Whether the combination is reserved for evaluation; this depends only on its label."""
    return int(hashlib.sha256(label.encode()).hexdigest()[:8], 16) % HELD_OUT_IN == 0


@dataclass(frozen=True)
class SceneObject:
    """An object with an image."""

    number: int
    name: str
    name_zh: str
    tags: tuple[str, ...]
    tags_zh: tuple[str, ...]
    group: str
    subgroup: str


@dataclass(frozen=True)
class PlacedObject:
    """An object in a scene. ``x, y`` is its center and ``side`` its size, in units of 1/64 of the image's side."""

    object: SceneObject
    place: str  # left, right, middle, top or bottom
    x: int
    y: int
    side: int
    size_word: str = ""  # small or large, for an object alone; otherwise empty


@dataclass(frozen=True)
class Scene:
    """One to three objects on a flat background; `NEUTRAL` if it has no name."""

    objects: tuple[PlacedObject, ...]
    background: str

    @property
    def label(self) -> str:
        """The combination of objects and background, without places and sizes."""
        return "+".join(sorted(p.object.name for p in self.objects)) + "@" + self.background

    @property
    def held_out(self) -> bool:
        return is_held_out(self.label)


class Library:
    """All objects of some shards, with their images. Raises `UserError` for a sample that is not an object."""

    def __init__(self, shards: tuple[Path, ...]):
        self._source = ShardSource(list(shards))
        self._image_cache: dict[tuple[int, int], Image.Image] = {}

    @cached_property
    def objects(self) -> list[SceneObject]:
        return [self._read(number) for number in range(len(self._source))]

    @cached_property
    def scene_objects(self) -> list[SceneObject]:
        """The objects that scenes are composed of, in the order of `objects`."""
        by_hash = sorted(self.objects, key=lambda scene_object: hashlib.sha256(scene_object.name.encode()).digest())
        return sorted(by_hash[:NUM_SCENE_OBJECTS], key=lambda scene_object: scene_object.number)

    def _read(self, number: int) -> SceneObject:
        record = self._source[number]
        fields = record.fields
        try:
            if len(record.images) != 1:
                raise KeyError("picture")
            texts = [fields[name] for name in ("class_name", "class_name_zh", "group", "subgroup")]
            return SceneObject(
                number, texts[0], texts[1], tuple(fields["tags"]), tuple(fields["tags_zh"]), texts[2], texts[3]
            )
        except KeyError as error:
            raise UserError(f"sample {record.key!r} cannot be put into scenes: it has no {error.args[0]}") from None

    def image(self, number: int, side: int) -> Image.Image:
        """The object's image, RGBA, ``side`` x ``side`` pixels; it is cached, so do not modify it."""
        image = self._image_cache.get((number, side))
        if image is None:
            original = self._source[number].images[0].convert("RGBA")
            # Premultiplied while scaling: transparent pixels have no colour to give.
            image = original.convert("RGBa").resize((side, side), Image.Resampling.LANCZOS).convert("RGBA")
            self._image_cache[number, side] = image
        return image


@lru_cache(maxsize=8)
def load_library(shards: tuple[Path, ...]) -> Library:
    """The library of these shards, loaded once per process."""
    return Library(shards)

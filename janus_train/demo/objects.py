"""The building blocks of scenes: objects, backgrounds, places, and the description of a scene.

In: shards of single objects on transparent ground (``class_name``, ``class_name_zh``, ``tags``, ``tags_zh``, ``group``,
``subgroup``). Out: `SceneObject`s and their images at any size, decoded once and cached; `Scene`, the description from
which both images and texts are made.
"""

from __future__ import annotations

import hashlib
from copy import copy
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from PIL import Image, ImageDraw

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

_SCENE_OBJECTS = """
    moose, monkey, penguin, fox, lion, panda, frog, owl, elephant, zebra, crab, octopus, butterfly, turtle, unicorn,
    sunflower, cactus, mushroom, palm tree, banana, strawberry, pineapple, watermelon, pizza, hamburger, doughnut, popcorn,
    rocket, bicycle, sailboat, bus, castle, volcano, snowman, balloon, guitar, camera, umbrella, crown, key
"""
SCENE_OBJECTS = frozenset(" ".join(_SCENE_OBJECTS.split()).split(", "))
"""Scenes are composed of these objects, 40 that are told apart at 32 pixels: in the few minutes of the demo, a model of a
million weights can learn the looks of so many but not of all. Texts are about all objects."""

UNIT = 96
"""Positions and sizes in a scene are in units of 1/96 of the image's side."""

CELL = 16
"""Scenes are composed on a grid of cells of this side, which are the patches of both encoders of the tiny model: whatever
stands on whole cells gives the same codes at every place and on every background."""

SIDES = {"small": 2 * CELL, "large": 4 * CELL}
"""Sides of the cards with objects. Several objects in one scene are small."""

CARD, CARD_EDGE = (250, 246, 234), (196, 182, 152)
"""Colours of the card that an object stands on, and of its edge, RGB. With a card an object fills whole cells: without
one, every cell at its outline would be another one on each background, and a model would have to learn them all."""
CARD_MARGIN = 1 / 12
"""Space between an object and the border of its card, as a share of the card's side."""

PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
PLACES_OF_COUNT: dict[int, tuple[tuple[str, ...], ...]] = {
    1: tuple((place,) for place in PLACES),
    2: (("left", "right"), ("top", "bottom"), ("top left", "bottom right"), ("bottom left", "top right")),
    3: (("left", "middle", "right"), ("top", "bottom left", "bottom right")),
    4: (("top left", "top right", "bottom left", "bottom right"),),
}
"""Number of objects -> the possible arrangements."""


def embedded_shards() -> list[Path]:
    """The tars with the embedded objects, in their order."""
    return sorted(SHARDS_FOLDER.glob("*.tar"))


def center_of(place: str, side: int) -> tuple[int, int]:
    """The center (x, y) of a card at a place, in units."""
    low, middle, high = side // 2, UNIT // 2, UNIT - side // 2
    words = place.split()
    x = low if "left" in words else high if "right" in words else middle
    y = low if "top" in words else high if "bottom" in words else middle
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
    """An object on its card. ``x, y`` is the card's center and ``side`` its side, in units of 1/96 of the image's side."""

    object: SceneObject
    place: str  # one of `PLACES`
    x: int
    y: int
    side: int
    size_word: str = ""  # small or large, for an object alone; otherwise empty


@dataclass(frozen=True)
class Scene:
    """One to four objects on a flat background; `NEUTRAL` if it has no name."""

    objects: tuple[PlacedObject, ...]
    background: str

    @property
    def label(self) -> str:
        """The combination of objects and background, without places and sizes."""
        return "+".join(sorted(p.object.name for p in self.objects)) + "@" + self.background

    @property
    def held_out(self) -> bool:
        return is_held_out(self.label)


@dataclass(frozen=True)
class ObjectChoice:
    """Which objects scenes and texts are about: ``only`` those of these names, ``without`` those of others; both empty: all."""

    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def of(self, objects: list[SceneObject]) -> list[SceneObject]:
        return [each for each in objects if each.name not in self.without and (not self.only or each.name in self.only)]


ALL_OBJECTS = ObjectChoice()


class Library:
    """All objects of some shards, with their images. Raises `UserError` for a sample that is not an object."""

    def __init__(self, shards: tuple[Path, ...]):
        self._source = ShardSource(list(shards))
        self._chosen: dict[ObjectChoice, Library] = {ALL_OBJECTS: self}
        self._cards: dict[tuple[int, int], Image.Image] = {}

    @cached_property
    def objects(self) -> list[SceneObject]:
        return [self._read(number) for number in range(len(self._source))]

    @cached_property
    def scene_objects(self) -> list[SceneObject]:
        """The objects that scenes are composed of: `SCENE_OBJECTS`, or all if the shards have none of those."""
        return [each for each in self.objects if each.name in SCENE_OBJECTS] or self.objects

    @cached_property
    def text_objects(self) -> list[SceneObject]:
        """The objects that texts are about."""
        return self.objects

    def choose(self, choice: ObjectChoice) -> Library:
        """This library with only the chosen `scene_objects` and `text_objects`; `objects` and images are the same.

        Raises `UserError` if the choice names an object that scenes do not have, or leaves none.
        """
        if choice not in self._chosen:
            names = {each.name for each in self.scene_objects}
            for name in (*choice.only, *choice.without):
                if name not in names:
                    raise UserError(f"scenes: there is no object {name!r}, known are {', '.join(sorted(names))}")
            chosen = copy(self)
            chosen.scene_objects, chosen.text_objects = choice.of(self.scene_objects), choice.of(self.objects)
            if not chosen.scene_objects:
                raise UserError("scenes: only and without leave no object")
            self._chosen[choice] = chosen
        return self._chosen[choice]

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
        """The object alone, RGBA, ``side`` x ``side`` pixels."""
        original = self._source[number].images[0].convert("RGBA")
        # Premultiplied while scaling: transparent pixels have no colour to give.
        return original.convert("RGBa").resize((side, side), Image.Resampling.LANCZOS).convert("RGBA")

    def card(self, number: int, side: int) -> Image.Image:
        """The object on its card, RGB, ``side`` x ``side`` pixels; it is cached, so do not modify it."""
        card = self._cards.get((number, side))
        if card is None:
            margin = round(side * CARD_MARGIN)
            image = self.image(number, side - 2 * margin)
            card = Image.new("RGB", (side, side), CARD)
            ImageDraw.Draw(card).rectangle((0, 0, side - 1, side - 1), outline=CARD_EDGE)
            card.paste(image, (margin, margin), image)
            self._cards[number, side] = card
        return card


@lru_cache(maxsize=8)
def load_library(shards: tuple[Path, ...]) -> Library:
    """The library of these shards, loaded once per process."""
    return Library(shards)

"""Scenes composed on the fly from single objects: images, captions, questions, texts, always the same for an index.

    shards of objects -> Library -> Scene (view, split, index) -> image and words -> Record

A tenth of the combinations (which objects on which background) is held out by a hash of its label: the ``train`` split
never shows one, the ``held_out`` split shows nothing else. Nothing depends on Python's own hash, on time or on who
asks: the generator of a sample is seeded by (view, split, index) alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from janus_train.data.scene_text import (
    NUM_CAPTIONS,
    caption,
    class_caption,
    definition,
    first_sentence,
    questions,
    sentence,
    thing_questions,
)
from janus_train.data.scene_things import (
    BACKGROUNDS,
    NEUTRAL,
    PLACES_OF_COUNT,
    SIDES,
    UNIT,
    Library,
    Placed,
    Scene,
    Thing,
    is_held_out,
    library,
    spot,
)
from janus_train.data.types import Record
from janus_train.errors import UserError

__all__ = [
    "BACKGROUNDS",
    "NEUTRAL",
    "Library",
    "Placed",
    "Scene",
    "SceneSource",
    "Thing",
    "caption",
    "class_scene",
    "draw_scene",
    "held_out_scenes",
    "is_held_out",
    "library",
    "questions",
    "render",
]

VIEWS = {"class": 1, "scene": 2, "text": 3, "conversation": 4, "draw": 5, "dialogue": 6}
"""What a source makes of scenes and things -> its number in the seed (never change one)."""
SPLITS = {"train": 1, "held_out": 2}
EVALUATION = 100  # the seed number of `held_out_scenes`

SHARE_OF_COUNT = (0.4, 0.4, 0.2)  # of scenes with one, two, three things

IMAGE = "<image_placeholder>"
USER, ASSISTANT = "<|User|>", "<|Assistant|>"


def _compose(things: list[Thing], rng: np.random.Generator) -> tuple[Placed, ...]:
    size_word = ("small", "large")[rng.integers(2)] if len(things) == 1 else ""
    side = SIDES[size_word or "small"]
    choices = PLACES_OF_COUNT[len(things)]
    places = choices[rng.integers(len(choices))]
    return tuple(
        Placed(thing, place, *spot(place, side, len(things)), side, size_word)
        for thing, place in zip(things, places, strict=True)
    )


def draw_scene(objects: Library, rng: np.random.Generator, split: str) -> Scene:
    """A random scene of the split; combinations of the other split are drawn again."""
    things, colours = objects.scene_things, list(BACKGROUNDS)
    most = min(3, len(things))
    shares = np.array(SHARE_OF_COUNT[:most]) / sum(SHARE_OF_COUNT[:most])
    while True:
        number = int(rng.choice(most, p=shares)) + 1
        chosen = [things[i] for i in rng.choice(len(things), number, replace=False)]
        background = colours[rng.integers(len(colours))]
        label = "+".join(sorted(t.name for t in chosen)) + "@" + background
        if is_held_out(label) == (split == "held_out"):
            return Scene(_compose(chosen, rng), background)


def _paste(ground: Image.Image, objects: Library, placed: Placed) -> None:
    scale = ground.width / UNIT
    side = round(placed.side * scale)
    image = objects.image(placed.thing.number, side)
    corner = (round(placed.x * scale - side / 2), round(placed.y * scale - side / 2))
    ground.paste(image, corner, image)


def render(scene: Scene, objects: Library, size: int = UNIT) -> Image.Image:
    """The scene as an RGB image, ``size`` pixels a side."""
    ground = Image.new("RGB", (size, size), BACKGROUNDS.get(scene.background, NEUTRAL))
    for placed in scene.placed:
        _paste(ground, objects, placed)
    return ground


def class_scene(thing: Thing) -> Scene:
    """The thing alone, large and in the middle, on none of the backgrounds' colours."""
    side = SIDES["large"]
    return Scene((Placed(thing, "middle", *spot("middle", side), side),), "")


def _turns(pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {"role": role, "content": text} for pair in pairs for role, text in zip((USER, ASSISTANT), pair, strict=True)
    ]


class SceneSource:
    """A random-access sequence of records about scenes or things: see `VIEWS`.

    ``class`` {class_name, caption} + image; ``scene`` {caption} + image; ``text`` {text};
    ``conversation`` {conversations} + image to look at; ``draw`` {conversations} + image to draw;
    ``dialogue`` {conversations} without image.
    """

    def __init__(self, shards: list[Path], view: str, split: str = "train", num_scenes: int = 1000, size: int = UNIT):
        if view not in VIEWS:
            raise UserError(f"scenes: there is no view {view!r}, known are {', '.join(VIEWS)}")
        if split not in SPLITS:
            raise UserError(f"scenes: there is no split {split!r}, known are {', '.join(SPLITS)}")
        self.view, self.split, self.size = view, split, size
        self._length = num_scenes
        self._shards = tuple(shards)
        self._make = getattr(self, f"_{view}")

    @property
    def objects(self) -> Library:
        return library(self._shards)  # looked up each time: a source travels to worker processes without its images

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < self._length:
            raise IndexError(index)
        fields, images = self._make(self._rng(index), index)
        return Record(f"{self.view}-{self.split}-{index:06d}", fields, images)

    def scene(self, index: int) -> Scene:
        """The scene behind a record of the views scene, conversation and draw."""
        return draw_scene(self.objects, self._rng(index), self.split)

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence((VIEWS[self.view], SPLITS[self.split], index)))

    def _thing(self, index: int) -> Thing:
        """Every thing once in as many indices as there are things, in another order each time."""
        things = self.objects.things
        turn, place = divmod(index, len(things))
        order = np.random.default_rng(np.random.SeedSequence((VIEWS[self.view], SPLITS[self.split], 0, turn)))
        return things[int(order.permutation(len(things))[place])]

    def _class(self, rng: np.random.Generator, index: int) -> tuple[dict[str, Any], list[Image.Image]]:
        thing = self._thing(index)
        image = render(class_scene(thing), self.objects, self.size)
        return {"class_name": thing.name, "caption": class_caption(thing)}, [image]

    def _scene(self, rng: np.random.Generator, index: int) -> tuple[dict[str, Any], list[Image.Image]]:
        scene = draw_scene(self.objects, rng, self.split)
        return {"caption": caption(scene, rng)}, [render(scene, self.objects, self.size)]

    def _text(self, rng: np.random.Generator, index: int) -> tuple[dict[str, Any], list[Image.Image]]:
        if rng.random() < 0.25:
            return {"text": caption(draw_scene(self.objects, rng, self.split), rng)}, []
        return {"text": definition(self._thing(index), rng)}, []

    def _conversation(self, rng: np.random.Generator, index: int) -> tuple[dict[str, Any], list[Image.Image]]:
        scene = draw_scene(self.objects, rng, self.split)
        asked = questions(scene, int(rng.random() < 0.3))
        kinds = list(rng.permutation(["colour", "count", "place", "object"])[: rng.integers(1, 4)])
        pairs = []
        for kind in kinds:
            candidates = [(q, a) for k, q, a in asked if k == kind]
            pairs.append(candidates[rng.integers(len(candidates))])
        pairs[0] = (f"{IMAGE}\n{pairs[0][0]}", pairs[0][1])
        return {"conversations": _turns(pairs)}, [render(scene, self.objects, self.size)]

    def _draw(self, rng: np.random.Generator, index: int) -> tuple[dict[str, Any], list[Image.Image]]:
        scene = draw_scene(self.objects, rng, self.split)
        if rng.random() < 0.5:
            asked = caption(scene, rng)
        else:
            order = ("draw", "please draw")[rng.integers(2)]
            asked = sentence(f"{order} {first_sentence(scene, int(rng.integers(NUM_CAPTIONS - 1)))}")
        return {"conversations": _turns([(asked, IMAGE)])}, [render(scene, self.objects, self.size)]

    def _dialogue(self, rng: np.random.Generator, index: int) -> tuple[dict[str, Any], list[Image.Image]]:
        pairs = thing_questions(self._thing(index), rng)[: rng.integers(1, 4)]
        return {"conversations": _turns(pairs)}, []


def held_out_scenes(shards: list[Path], number: int) -> list[Scene]:
    """The first ``number`` scenes for evaluation, all of held-out combinations and no two the same."""
    objects, index = library(tuple(shards)), 0
    found: dict[Scene, None] = {}
    while len(found) < number:
        rng = np.random.default_rng(np.random.SeedSequence((EVALUATION, SPLITS["held_out"], index)))
        found.setdefault(draw_scene(objects, rng, "held_out"))
        index += 1
    return list(found)

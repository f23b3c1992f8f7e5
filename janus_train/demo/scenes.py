"""Composes scenes on the fly from single objects: images, captions, questions, texts, always the same for an index.

    shards of objects -> Library -> Scene (view, split, index) -> image and words -> Record

A tenth of the combinations (which objects on which background) is held out, by a hash of their labels: the ``train`` split
never contains one, the ``held_out`` split contains nothing else. The random generator of a sample is seeded only with
(view, split, index), so every process makes the same samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from janus_train.data.sources.shards import ShardSource
from janus_train.data.special_tokens import ASSISTANT, PLACEHOLDER, USER
from janus_train.data.types import Record
from janus_train.demo.objects import (
    ALL_OBJECTS,
    BACKGROUNDS,
    NEUTRAL,
    PLACES_OF_COUNT,
    SIDES,
    UNIT,
    Library,
    ObjectChoice,
    PlacedObject,
    Scene,
    SceneObject,
    center_of,
    is_held_out,
    load_library,
)
from janus_train.demo.words import (
    NUM_CAPTIONS,
    caption,
    class_caption,
    definition,
    first_sentence,
    object_questions,
    questions,
    sentence,
)
from janus_train.errors import UserError

__all__ = [
    "BACKGROUNDS",
    "NEUTRAL",
    "Library",
    "PlacedObject",
    "Scene",
    "SceneObject",
    "SceneSource",
    "caption",
    "class_scene",
    "evaluation_scenes",
    "held_out_scenes",
    "is_held_out",
    "load_library",
    "questions",
    "render",
    "sample_scene",
]

VIEWS = {"class": 1, "scene": 2, "text": 3, "conversation": 4, "draw": 5, "dialogue": 6}
"""Kinds of samples that a source makes from scenes and objects -> their numbers in the seed (never change one)."""
SPLITS = {"train": 1, "held_out": 2}
EVALUATION = 100  # the seed number of `evaluation_scenes`

SHARE_OF_COUNT = (0.4, 0.3, 0.15, 0.15)  # of scenes with one to four objects
SHARE_OF_TWINS = 0.15  # of scenes with several objects: two of them are of one kind
MAX_IN_VAIN = 2000  # scenes sampled in a row that are of the other split, or the same as earlier ones


def _compose(objects: list[SceneObject], rng: np.random.Generator) -> tuple[PlacedObject, ...]:
    size_word = ("small", "large")[rng.integers(2)] if len(objects) == 1 else ""
    side = SIDES[size_word or "small"]
    choices = PLACES_OF_COUNT[len(objects)]
    places = choices[rng.integers(len(choices))]
    return tuple(
        PlacedObject(scene_object, place, *center_of(place, side), side, size_word)
        for scene_object, place in zip(objects, places, strict=True)
    )


def _sample_objects(library: Library, rng: np.random.Generator) -> list[SceneObject]:
    """One to four objects in a random order, no more than two of them alike."""
    objects = library.scene_objects
    most = min(len(SHARE_OF_COUNT), len(objects))
    shares = np.array(SHARE_OF_COUNT[:most]) / sum(SHARE_OF_COUNT[:most])
    number = int(rng.choice(most, p=shares)) + 1
    chosen = [objects[i] for i in rng.choice(len(objects), number, replace=False)]
    if number > 1 and rng.random() < SHARE_OF_TWINS:
        first, second = rng.choice(number, 2, replace=False)
        chosen[second] = chosen[first]
    return chosen


def sample_scene(library: Library, rng: np.random.Generator, split: str) -> Scene:
    """Sample a scene of the split; combinations of the other split are rejected. Raises `UserError` if there is none."""
    colours = list(BACKGROUNDS)
    for _ in range(MAX_IN_VAIN):
        scene_objects = _sample_objects(library, rng)
        background = colours[rng.integers(len(colours))]
        label = "+".join(sorted(t.name for t in scene_objects)) + "@" + background
        if is_held_out(label) == (split == "held_out"):
            return Scene(_compose(scene_objects, rng), background)
    raise UserError(f"scenes: no combination of these objects is in the split {split}: choose more objects")


def render(scene: Scene, library: Library, size: int = UNIT) -> Image.Image:
    """The scene as an RGB image of ``size`` x ``size`` pixels."""
    image = Image.new("RGB", (size, size), BACKGROUNDS.get(scene.background, NEUTRAL))
    scale = size / UNIT
    for placed_object in scene.objects:
        side = round(placed_object.side * scale)
        corner = (round(placed_object.x * scale - side / 2), round(placed_object.y * scale - side / 2))
        image.paste(library.card(placed_object.object.number, side), corner)
    return image


def class_scene(scene_object: SceneObject, size_word: str = "large") -> Scene:
    """The object alone in the middle, on none of the backgrounds' colours."""
    side = SIDES[size_word]
    return Scene((PlacedObject(scene_object, "middle", *center_of("middle", side), side, size_word),), "")


def _turns(pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {"role": role, "content": text} for pair in pairs for role, text in zip((USER, ASSISTANT), pair, strict=True)
    ]


class SceneSource:
    """A random-access sequence of records about scenes or objects: see `VIEWS`.

    ``class`` {class_name, caption} + image, of the objects of scenes at both sizes; ``scene`` {caption} + image; ``text`` {text};
    ``conversation`` {conversations} + image to understand; ``draw`` {conversations} + image to generate;
    ``dialogue`` {conversations} without image.
    """

    def __init__(
        self,
        shards: list[Path],
        view: str,
        split: str = "train",
        num_scenes: int = 1000,
        size: int = UNIT,
        choice: ObjectChoice = ALL_OBJECTS,
    ):
        if view not in VIEWS:
            raise UserError(f"scenes: there is no view {view!r}, known are {', '.join(VIEWS)}")
        if split not in SPLITS:
            raise UserError(f"scenes: there is no split {split!r}, known are {', '.join(SPLITS)}")
        self.view, self.split, self.size = view, split, size
        self._length = num_scenes
        self._shards, self._choice = tuple(shards), choice
        self._make = getattr(self, f"_{view}")
        if choice != ALL_OBJECTS:
            load_library(self._shards).choose(choice)  # a wrong name is refused here, not at the first sample

    @property
    def library(self) -> Library:
        # Looked up each time: a source travels to worker processes without its images.
        return load_library(self._shards).choose(self._choice)

    def __len__(self) -> int:
        return self._length

    def data_digest(self) -> str:
        """The digest of the shards; everything else about scenes is in the recipe and the code."""
        return ShardSource(list(self._shards)).data_digest()

    def __getitem__(self, index: int) -> Record:
        key = self.key(index)
        fields, images = self._make(self._rng(index), index)
        return Record(key, fields, images)

    def key(self, index: int) -> str:
        if not 0 <= index < self._length:
            raise IndexError(index)
        return f"{self.view}-{self.split}-{index:06d}"

    def scene(self, index: int) -> Scene:
        """The scene behind a record of the views scene, conversation and draw."""
        return sample_scene(self.library, self._rng(index), self.split)

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence((VIEWS[self.view], SPLITS[self.split], index)))

    def _object(self, index: int, objects: list[SceneObject]) -> SceneObject:
        """The object of an index: every object once per len(objects) indices, in another order each time."""
        turn, place = divmod(index, len(objects))
        order = np.random.default_rng(np.random.SeedSequence((VIEWS[self.view], SPLITS[self.split], 0, turn)))
        return objects[int(order.permutation(len(objects))[place])]

    def _class(self, rng: np.random.Generator, index: int) -> tuple[dict[str, Any], list[Image.Image]]:
        scene_object = self._object(index, self.library.scene_objects)
        size_word = list(SIDES)[rng.integers(len(SIDES))]
        image = render(class_scene(scene_object, size_word), self.library, self.size)
        return {"class_name": f"{size_word} {scene_object.name}", "caption": class_caption(scene_object, size_word)}, [
            image
        ]

    def _scene(self, rng: np.random.Generator, index: int) -> tuple[dict[str, Any], list[Image.Image]]:
        scene = sample_scene(self.library, rng, self.split)
        return {"caption": caption(scene, rng)}, [render(scene, self.library, self.size)]

    def _text(self, rng: np.random.Generator, index: int) -> tuple[dict[str, Any], list[Image.Image]]:
        if rng.random() < 0.25:
            return {"text": caption(sample_scene(self.library, rng, self.split), rng)}, []
        return {"text": definition(self._object(index, self.library.text_objects), rng)}, []

    def _conversation(self, rng: np.random.Generator, index: int) -> tuple[dict[str, Any], list[Image.Image]]:
        scene = sample_scene(self.library, rng, self.split)
        all_questions = questions(scene, int(rng.random() < 0.3))
        kinds = sorted({kind for kind, _, _ in all_questions})
        pairs = []
        for kind in rng.permutation(kinds)[: rng.integers(2, 6)]:
            candidates = [(q, a) for k, q, a in all_questions if k == kind]
            pairs.append(candidates[rng.integers(len(candidates))])
        pairs[0] = (f"{PLACEHOLDER}\n{pairs[0][0]}", pairs[0][1])
        return {"conversations": _turns(pairs)}, [render(scene, self.library, self.size)]

    def _draw(self, rng: np.random.Generator, index: int) -> tuple[dict[str, Any], list[Image.Image]]:
        scene = sample_scene(self.library, rng, self.split)
        if rng.random() < 0.5:
            request = caption(scene, rng)
        else:
            order = ("draw", "please draw")[rng.integers(2)]
            request = sentence(f"{order} {first_sentence(scene, int(rng.integers(NUM_CAPTIONS - 1)))}")
        return {"conversations": _turns([(request, PLACEHOLDER)])}, [render(scene, self.library, self.size)]

    def _dialogue(self, rng: np.random.Generator, index: int) -> tuple[dict[str, Any], list[Image.Image]]:
        pairs = object_questions(self._object(index, self.library.text_objects), rng)[: rng.integers(1, 4)]
        return {"conversations": _turns(pairs)}, []


def evaluation_scenes(shards: list[Path], choice: ObjectChoice = ALL_OBJECTS) -> Iterator[Scene]:
    """Scenes for evaluation, all different and of held-out combinations. Raises `UserError` when there are no more."""
    library = load_library(tuple(shards)).choose(choice)
    earlier_scenes: set[Scene] = set()
    num_in_vain = 0
    for index in count():
        rng = np.random.default_rng(np.random.SeedSequence((EVALUATION, SPLITS["held_out"], index)))
        scene = sample_scene(library, rng, "held_out")
        num_in_vain = num_in_vain + 1 if scene in earlier_scenes else 0
        if not num_in_vain:
            earlier_scenes.add(scene)
            yield scene
        elif num_in_vain == MAX_IN_VAIN:
            raise UserError(
                f"scenes: these objects have only {len(earlier_scenes)} different held-out scenes, which is too few: "
                "choose more objects, or ask for fewer prompts and questions"
            )


def held_out_scenes(shards: list[Path], number: int, choice: ObjectChoice = ALL_OBJECTS) -> list[Scene]:
    """The first ``number`` scenes for evaluation."""
    return list(islice(evaluation_scenes(shards, choice), number))

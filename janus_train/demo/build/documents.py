"""The plain texts that the base's language model is pretrained on: documents of the training split, by view.

Where the stages have an image there are words about it here, a caption or key words: a language model that can say and
answer what a text holds has only the image's features to learn later.

Finding in a context what belongs to a name is the hard part for a model of this size. It learns it in small steps (numbers in
benchmarks/demo.md): words that come again in the same order (`repetition`), then key words said again in other ways, with
nothing, a little or a whole question between a name and what belongs to it (`restatement`), then questions about scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from janus_train.data.special_tokens import ASSISTANT, BOS, EOS, PLACEHOLDER, SPECIAL_TOKENS, USER
from janus_train.demo.build.common import ENDLESS, SHARDS
from janus_train.demo.objects import PLACES, Scene
from janus_train.demo.scenes import SceneSource, caption, load_library, sample_scene
from janus_train.demo.words import name_restatements, notes, place_restatements, questions

SOURCES = {
    "scene_caption": "draw",
    "naming": "class",
    "reading": "conversation",
    "notes": "conversation",
    "description": "scene",
}
"""The views of `SceneSource` that give a document's facts, where they are not of the same name."""
ASKED = ("place", "object")
"""Sorts of questions that need a name and a place to be bound to each other."""
MOST_REPEATED = 15
"""Words of a repetition before they come again."""
MOST_ENTRIES = 6
"""Objects with their places in a list of key words."""


def document(view: str, index: int, split: str = "train") -> str:
    """A document as text, with the special tokens of Janus's formats at the same places as in the stages."""
    if view in _LISTS:
        seed = (list(_LISTS).index(view), ("train", "held_out").index(split), index)
        return BOS + _LISTS[view](np.random.default_rng(seed)) + EOS
    source = SceneSource(SHARDS, SOURCES.get(view, view), split, ENDLESS)
    record, rng = source[index], np.random.default_rng(index)
    if view == "text":
        return BOS + record.fields["text"] + EOS
    if view == "naming":  # half of them the name alone
        name = record.fields["class_name"]
        return BOS + (f"{name}: " if rng.random() < 0.5 else "") + record.fields["caption"] + EOS
    if view == "description":
        words = notes(source.scene(index), rng)
        return BOS + f"{words}. Describe the image in detail." + record.fields["caption"] + EOS
    turns = record.fields["conversations"]
    if view == "scene_caption":  # the words that ask for an image, as plain text
        return BOS + turns[0]["content"] + EOS
    if view in ("reading", "notes"):
        words = (caption if view == "reading" else notes)(source.scene(index), rng)
        turns[0]["content"] = turns[0]["content"].replace(PLACEHOLDER, words)
    return chat([turn["content"] for turn in turns])


def chat(contents: list[str]) -> str:
    """The contents of turns, the user's first, in the format of the stages."""
    pieces = []
    for number, content in enumerate(contents):
        pieces.append(f"{USER}: {content}\n\n" if number % 2 == 0 else f"{ASSISTANT}: {content}{EOS}")
    return BOS + "".join(pieces)


def held_out_question(sort: str, index: int) -> tuple[Scene, str, str]:
    """A scene of a held-out combination with several objects, a question of the sort about it, and the answer."""
    library, rng = load_library(tuple(SHARDS)), np.random.default_rng((17, index))
    while True:
        scene = sample_scene(library, rng, "held_out")
        pairs = [(question, answer) for kind, question, answer in questions(scene) if kind == sort]
        if len(scene.objects) > 1 and pairs:
            return scene, *pairs[rng.integers(len(pairs))]


def texts(count: int) -> Iterator[str]:
    """Training texts of every view for the tokenizer, without special tokens."""
    views = ("text", "dialogue", "scene_caption", "conversation", "draw")
    for index in range(count):
        for view in views:
            text = document(view, index)
            for token in SPECIAL_TOKENS:
                text = text.replace(token, "")
            yield text


def _names(rng: np.random.Generator, number: int, replace: bool = False) -> list[str]:
    objects = load_library(tuple(SHARDS)).scene_objects
    return [objects[i].name for i in rng.choice(len(objects), number, replace=replace)]


def _entries(rng: np.random.Generator) -> list[tuple[str, str]]:
    """Two or more objects' names, each with a place of its own."""
    number = int(rng.integers(2, MOST_ENTRIES + 1))
    places = [PLACES[i] for i in rng.choice(len(PLACES), number, replace=False)]
    return list(zip(_names(rng, number), places, strict=True))


def _key_words(entries: list[tuple[str, str]], rng: np.random.Generator) -> list[str]:
    return [f"{name} {place}" if rng.random() < 0.5 else f"{place} {name}" for name, place in entries]


def _repetition(rng: np.random.Generator) -> str:
    """Names twice in the same order: "fox owl bus fox owl bus"."""
    names = _names(rng, int(rng.integers(4, MOST_REPEATED + 1)), replace=True)
    return " ".join(names + names)


def _list(rng: np.random.Generator) -> str:
    """Key words, and twice more in other orders: "fox top, left owl, left owl, fox top, fox top, left owl"."""
    entries = _key_words(_entries(rng), rng)
    return ", ".join(entries + [entries[i] for _ in range(2) for i in rng.permutation(len(entries))])


def _restatement(rng: np.random.Generator) -> str:
    """Key words, then the same in other ways: "fox top, left owl: the owl is on the left, top: fox, fox: top"."""
    entries = _entries(rng)
    said = []
    for name, place in entries:
        ways = name_restatements(name, place)
        said.append(ways[rng.integers(len(ways))])
        if rng.random() < 0.5:
            ways = place_restatements(name, place)
            said.append(ways[rng.integers(len(ways))])
    return ", ".join(_key_words(entries, rng)) + ": " + ", ".join(said[i] for i in rng.permutation(len(said)))


_LISTS: dict[str, Callable[[np.random.Generator], str]] = {
    "repetition": _repetition,
    "list": _list,
    "restatement": _restatement,
}

"""Texts about scenes and objects: captions, questions with answers, definitions, dialogues.

In: a `Scene` or a `SceneObject`, and a random generator that picks among phrasings. Out: strings. The first sentence of a
caption alone names every object, its place and the background (data.first_sentence cuts captions to it). Each answer has
one fixed form, so that answers can be compared as strings.
"""

from __future__ import annotations

import numpy as np

from janus_train.demo.objects import Scene, SceneObject

COUNTS = ("No", "One", "Two", "Three", "Four")
PLACES = {
    "top left": "at the top left",
    "top": "at the top",
    "top right": "at the top right",
    "left": "on the left",
    "middle": "in the middle",
    "right": "on the right",
    "bottom left": "at the bottom left",
    "bottom": "at the bottom",
    "bottom right": "at the bottom right",
}
RELATIONS = {("left", "right"): ("to the left of", "to the right of"), ("top", "bottom"): ("above", "below")}
"""Places of two objects -> how the first stands to the second, and the second to the first."""

DEFINITE = frozenset({"Statue of Liberty", "kaaba", "milky way", "sun"})
"""Names with the article "the"."""

_BARE = """
    mount fuji, Tokyo tower, bread, flatbread, stuffed flatbread, bacon, butter, salt, garlic, broccoli, popcorn,
    spaghetti, sushi, oden, sake, cooked rice, curry rice, canned food, ginger root, leafy green, fire, fog, soap,
    wood, ice, mate, shaved ice, luggage, soft ice cream, pouring liquid, meat on bone, cooking, fondue, green
    salad, construction, building construction, tennis, bowling, camping, badminton, ping pong, lacrosse, field
    hockey, ice hockey, performing arts, yarn, thread, dna, money with wings, dango, custard, coral, cricket game,
    high voltage
"""
BARE = frozenset(" ".join(_BARE.split()).split(", "))
"""Names of stuff, activities and places without an article."""

SINGULAR_S = ("ss", "us", "is", "ros")
"""Endings in s of singular names: compass, cactus, tennis, rhinoceros."""

JOINTS = ("with", "without", "of", "on", "in", "over", "behind", "showing", "not")
"""Words after one of these do not decide whether a name is a plural: bowl with spoon, sunrise over mountains."""

AN_NOT_A = ("hour", "x-ray", "e-mail")
A_NOT_AN = ("one-", "uni", "eur", "ewe")


def is_plural(name: str) -> bool:
    """Whether the name is a plural, judged by its head: "grapes", "fork and knife with plate"."""
    words = name.split()
    for joint in JOINTS:
        if joint in words[1:]:
            words = words[: words.index(joint, 1)]
    if "and" in words or words[-1] == "skis":
        return True
    return words[-1].endswith("s") and not words[-1].endswith(SINGULAR_S)


def article(phrase: str) -> str:
    """``phrase`` with a or an before it."""
    low = phrase.lower()
    vowel = low.startswith(AN_NOT_A) or (low[0] in "aeiou" and not low.startswith(A_NOT_AN))
    return f"{'an' if vowel else 'a'} {phrase}"


def noun(name: str, size_word: str = "") -> str:
    """The name with its article, as in a sentence: "a red apple", "grapes", "the sun", "a large red apple"."""
    phrase = f"{size_word} {name}".strip()
    if name in DEFINITE:
        return f"the {phrase}"
    if name in BARE or is_plural(name):
        return phrase
    return article(phrase)


def sentence(text: str) -> str:
    """``text`` with a capital first letter and a full stop."""
    return text[0].upper() + text[1:] + "."


def join_words(parts: list[str]) -> str:
    """Join words as in a sentence: a / a and b / a, b and c."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def placed_phrases(scene: Scene) -> list[str]:
    """Each object with its place; the second of two alike is "another"."""
    phrases, named = [], set()
    for placed_object in scene.objects:
        name = placed_object.object.name
        words = f"another {name}" if name in named and noun(name) != name else noun(name, placed_object.size_word)
        named.add(name)
        phrases.append(f"{words} {PLACES[placed_object.place]}")
    return phrases


def relation(scene: Scene) -> tuple[str, str] | None:
    """How two different objects stand to each other, from the first's side and from the second's; None if there is no word."""
    names = [placed_object.object.name for placed_object in scene.objects]
    words = RELATIONS.get(tuple(placed_object.place for placed_object in scene.objects))  # type: ignore[arg-type]
    if words is None or len(set(names)) < 2:
        return None
    first, second = map(noun, names)
    return f"{first} {words[0]} {second}", f"{second} {words[1]} {first}"


NUM_CAPTIONS = 6


def first_sentence(scene: Scene, phrasing: int) -> str:
    """The complete scene in one sentence, without capital and full stop; ``phrasing``: 0..NUM_CAPTIONS-1.

    Phrasings 3 and 4 name a relation instead of places; scenes without one have phrasing 0 there.
    """
    phrases, related = join_words(placed_phrases(scene)), relation(scene)
    ground = f"{article(scene.background)} background"
    return (
        f"{phrases}, on {ground}",
        f"a picture of {phrases}, on {ground}",
        f"{phrases}, and the background is {scene.background}",
        f"{related[0] if related else phrases}, on {ground}",
        f"{related[1] if related else phrases}, on {ground}",
        f"on {ground}: {phrases}",
    )[phrasing]


def count_sentence(scene: Scene, phrasing: int) -> str:
    number = len(scene.objects)
    objects = "object" if number == 1 else "objects"
    word = COUNTS[number].lower()
    return (f"there {'is' if number == 1 else 'are'} {word} {objects}", f"the picture shows {word} {objects}")[phrasing]


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A dense caption: one sentence with everything, and with probability 0.4 a second one with the count."""
    text = sentence(first_sentence(scene, int(rng.integers(NUM_CAPTIONS))))
    if rng.random() < 0.4:
        text += " " + sentence(count_sentence(scene, int(rng.integers(2))))
    return text


def notes(scene: Scene, rng: np.random.Generator) -> str:
    """The scene in key words, in any order: "bus bottom, black background, top sunflower"."""
    entries = []
    for placed_object in scene.objects:
        words = (placed_object.object.name, placed_object.size_word, placed_object.place)
        entries.append(" ".join(filter(None, words if rng.random() < 0.5 else words[::-1])))
    entries.append(f"{scene.background} background" if scene.background else "no background")
    return ", ".join(entries[i] for i in rng.permutation(len(entries)))


def name_restatements(name: str, place: str) -> tuple[str, ...]:
    """Ways to say where the object of a name is; what stands between the name and the place is nothing up to a question."""
    verb, phrase = "are" if is_plural(name) else "is", PLACES[place]
    return (
        f"{name} {place}",
        f"{name}: {place}",
        f"{name} {phrase}",
        f"{name} {verb} {phrase}",
        f"the {name} {verb} {phrase}",
        f"where {verb} the {name}? {place}",
        f"Where {verb} the {name}? {sentence(phrase)}",
    )


def place_restatements(name: str, place: str) -> tuple[str, ...]:
    """Ways to say what is at a place; what stands between the place and the name is nothing up to a question."""
    verb, phrase = "are" if is_plural(name) else "is", PLACES[place]
    return (
        f"{place} {name}",
        f"{place}: {name}",
        f"{phrase}: {name}",
        f"{phrase} {verb} {noun(name)}",
        f"what is {phrase}? {noun(name)}",
        f"What is {phrase}? {sentence(noun(name))}",
    )


def class_caption(scene_object: SceneObject, size_word: str) -> str:
    return noun(scene_object.name, size_word)


QUESTIONS = {
    "colour": ("What colour is the background?", "Which colour does the background have?"),
    "count": ("How many objects are there?", "How many things are in the picture?"),
    "place": ("Where {verb} the {name}?", "In which place {verb} the {name}?"),
    "object": ("What is {place}?", "Which object is {place}?"),
    "relation": ("What is {relation} the {name}?", "Which object is {relation} the {name}?"),
}
"""Type -> phrasings of its question."""


def questions(scene: Scene, phrasing: int = 0) -> list[tuple[str, str, str]]:
    """All questions about the scene as (type, question, answer); type is a key of `QUESTIONS`.

    Nobody asks where an object is of which there are two.
    """
    ask = {kind: forms[phrasing] for kind, forms in QUESTIONS.items()}
    names = [placed_object.object.name for placed_object in scene.objects]
    entries = [
        ("colour", ask["colour"], sentence(scene.background)),
        ("count", ask["count"], f"{COUNTS[len(scene.objects)]}."),
    ]
    for placed_object, name in zip(scene.objects, names, strict=True):
        place = PLACES[placed_object.place]
        if names.count(name) == 1:
            verb = "are" if is_plural(name) else "is"
            entries.append(("place", ask["place"].format(verb=verb, name=name), sentence(place)))
        entries.append(("object", ask["object"].format(place=place), sentence(noun(name))))
    if relation(scene):
        words = RELATIONS[scene.objects[0].place, scene.objects[1].place]
        for word, other, answer in zip(words, reversed(names), names, strict=True):
            entries.append(("relation", ask["relation"].format(relation=word, name=other), sentence(noun(answer))))
    return entries


def kind_of(scene_object: SceneObject) -> str:
    return f"{scene_object.group} ({scene_object.subgroup})"


def sample_tags(tags: tuple[str, ...], rng: np.random.Generator, max_tags: int = 5) -> list[str]:
    """Sample up to ``max_tags`` of the tags and keep their order."""
    if len(tags) <= max_tags:
        return list(tags)
    return [tags[i] for i in sorted(rng.choice(len(tags), max_tags, replace=False))]


def definition(scene_object: SceneObject, rng: np.random.Generator) -> str:
    """Two or three sentences, in several phrasings: what the object is, its tags, and its Chinese name."""
    name = noun(scene_object.name)
    be = "are" if is_plural(scene_object.name) else "is"
    tags, tags_zh = sample_tags(scene_object.tags, rng), sample_tags(scene_object.tags_zh, rng)
    statement = (
        f"{name} {be} a kind of {kind_of(scene_object)}",
        f"{name} {be} one of {scene_object.group}, more exactly {scene_object.subgroup}",
        f"{scene_object.name}: {kind_of(scene_object)}",
    )[rng.integers(3)]
    sentences = [sentence(statement)]
    if tags:
        start = ("Tags", "Words that go with it", f"When you think of {name}, you think of")[rng.integers(3)]
        sentences.append(f"{start}: {', '.join(tags)}.")
    chinese = (f"In Chinese: {scene_object.name_zh}.", f"{scene_object.name} = {scene_object.name_zh}.")[
        rng.integers(2)
    ]
    if tags_zh and rng.random() < 0.4:
        chinese += f" {scene_object.name_zh}: {'、'.join(tags_zh)}。"
    sentences.append(chinese)
    if len(sentences) > 2 and rng.random() < 0.3:
        sentences.pop(int(rng.integers(1, 3)))
    return " ".join(sentences)


def object_questions(scene_object: SceneObject, rng: np.random.Generator) -> list[tuple[str, str]]:
    """(question, answer) about an object, in a random order."""
    name = noun(scene_object.name)
    be = "are" if is_plural(scene_object.name) else "is"
    pairs = [
        (f"What kind of thing {be} {name}?", sentence(kind_of(scene_object))),
        (f"What {be} {name} in Chinese?", f"{scene_object.name_zh}。"),
        (f"What is {scene_object.name_zh} in English?", sentence(name)),
        (f"{scene_object.name_zh}用英语怎么说？", sentence(name)),
    ]
    if scene_object.tags:
        pairs.append(
            (f"Give me words that go with {name}.", sentence(", ".join(sample_tags(scene_object.tags, rng, 4))))
        )
    return [pairs[i] for i in rng.permutation(len(pairs))]

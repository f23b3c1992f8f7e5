"""Which members of a tar are one sample, by their names. In: the members of one key. Out: samples, and what is left.

A key ends at the first dot of the base name, as in WebDataset: ``photo.jpg``, ``photo.0.jpg`` and ``photo.v2.png`` have the
key ``photo``. What follows a key may still be a name with dots in it, so members are read by their last ending:

- ``photo.v2.png`` and ``photo.v2.txt`` are a sample ``photo.v2``, and ``photo.v3.*`` beside them is another one;
- ``photo.v2.png`` is the image of ``photo.txt`` if there is no other image that could be;
- ``photo.mask.png`` beside ``photo.png``, and ``photo.blip.txt`` beside ``photo.png`` and ``photo.txt``, are not used;
- ``photo.0.png`` is image 0 of ``photo``, unless there is a ``photo.0.json`` or ``photo.0.txt``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

M = TypeVar("M")
_NUMBERED = re.compile(r"(?P<name>.+)\.(?P<number>\d{1,6})")
RENAME = "a key ends at the first dot of a name: rename the members"
"""The remedy for names that do not say what belongs together."""


def key_of(name: str) -> str:
    """The name, with its folders, up to the first dot of its base name."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


@dataclass
class KeyMembers(Generic[M]):
    """The members of one key, by what is done with them."""

    samples: dict[str, dict[str, M]] = field(default_factory=dict)
    """Name of a sample -> ending (``png``, ``0.png``, ``json``) -> member."""
    duplicates: list[str] = field(default_factory=list)
    """Samples that have two members of a kind."""
    ambiguous: list[str] = field(default_factory=list)
    """Names of words for which there are several images, or the other way round; they are no samples."""
    unused: list[str] = field(default_factory=list)
    """Endings of members that belong to no sample: ``mask.png``."""


def split_key(
    key: str, members: Iterable[tuple[str, str, M]], words: Collection[str], images: Collection[str]
) -> KeyMembers[M]:
    """Group the members (name without its last ending, last ending, member) of a key.

    ``words``: the endings of what describes an image, or is a sample alone; ``images``: those of images. A sample may have
    images without words: what to do with it is for the caller to say.
    """
    result: KeyMembers[M] = KeyMembers()
    _group_by_name(list(members), words, images, result)
    if len(result.samples) == 1:  # nearly all keys
        return result
    described = {name for name, parts in result.samples.items() if any(ending in words for ending in parts)}
    pictured = {name for name, parts in result.samples.items() if any(_last(ending) in images for ending in parts)}
    _join(key, described - pictured, pictured - described, result)
    complete = described & pictured
    for name in list(result.samples):
        parts = result.samples[name]
        is_extra = name not in complete and "json" not in parts
        if is_extra and any(name.startswith(f"{other}.") for other in complete):
            _drop(key, name, result)
    return result


def _group_by_name(
    members: list[tuple[str, str, M]], words: Collection[str], images: Collection[str], result: KeyMembers[M]
) -> None:
    described = {name for name, ending, _ in members if ending in words}
    places: set[tuple[str, str]] = set()
    for name, ending, member in members:
        number = ""
        match = _NUMBERED.fullmatch(name)
        if match and name not in described and ending not in words:
            name, number = match["name"], f"{int(match['number'])}."
        place = f"{number}{'image' if ending in images else ending}"
        if (name, place) in places and name not in result.duplicates:
            result.duplicates.append(name)
        places.add((name, place))
        result.samples.setdefault(name, {})[number + ending] = member


def _join(key: str, words_alone: set[str], images_alone: set[str], result: KeyMembers[M]) -> None:
    """Give words their image where one's name begins with the other's, and no other could be meant."""
    for name in [name for name in result.samples if name in words_alone]:
        candidates = [image for image in images_alone if _may_belong(name, image)]
        others = [words for words in words_alone for image in candidates if _may_belong(words, image)]
        if len(candidates) == len(others) == 1:
            parts = result.samples.pop(name) | result.samples.pop(candidates[0])
            result.samples[min(name, candidates[0], key=len)] = parts
        elif candidates:
            result.ambiguous.append(name)
    for name in result.ambiguous:
        for image in [image for image in images_alone & result.samples.keys() if _may_belong(name, image)]:
            _drop(key, image, result)
        del result.samples[name]


def _last(ending: str) -> str:
    return ending.rpartition(".")[2]


def _may_belong(words: str, image: str) -> bool:
    return image.startswith(f"{words}.") or words.startswith(f"{image}.")


def _drop(key: str, name: str, result: KeyMembers[M]) -> None:
    """Count the members of a name as not used; their endings are what follows the key."""
    result.unused += [f"{name[len(key) + 1 :]}.{ending}".removeprefix(".") for ending in result.samples.pop(name)]

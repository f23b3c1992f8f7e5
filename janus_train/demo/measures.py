"""Turns judgements (right or wrong) into measures: shares, chance levels and targets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from janus_train.demo.detector import DetectedObject, Detection
from janus_train.demo.objects import Scene
from janus_train.evaluate.measures import share

LABELS = {
    "background": "Background colour",
    "count": "Number of objects",
    "place": "Places of all objects",
    "object": "Named object",
    "all": "Everything at once",
    "answer_colour": "Background colour",
    "answer_count": "Number of objects",
    "answer_place": "Where an object is",
    "answer_object": "Which object is at a place",
    "answer_relation": "An object's neighbour",
}
"""The measures and their labels, in the order of the results."""

TARGETS = {
    "background": 97.0,
    "count": 95.0,
    "place": 95.0,
    "object": 90.0,
    "all": 75.0,
    "answer_colour": 99.0,
    "answer_count": 97.0,
    "answer_place": 93.0,
    "answer_object": 93.0,
}
"""The targets of the demo in percent."""


def commonest(values: Iterable[Hashable]) -> float:
    """The percentage that always giving the commonest value would get right."""
    counts = Counter(values)
    return 100 * max(counts.values()) / sum(counts.values()) if counts else 0.0


def measure(name: str, group: str, judgements: Sequence[bool], chance: float) -> dict[str, Any]:
    """One line of the results; ``chance`` in percent."""
    result: dict[str, Any] = {
        "name": name,
        "group": group,
        "label": LABELS[name],
        **share(judgements),
        "chance": chance,
    }
    target = TARGETS.get(name)
    if target is not None:
        result |= {"asked": {"percent": target}, "reached": bool(judgements) and result["percent"] >= target}
    return result


def judge(scene: Scene, detection: Detection) -> dict[str, list[bool]]:
    """Judge an image of ``scene``: measure -> judgements, one per named object for ``object``, otherwise one.

    ``all`` is right if the background and every card are: its place, its size and its object, and no other card.
    """
    named = {(each.place, each.side, each.object.number) for each in scene.objects}
    is_background = detection.background == scene.background
    return {
        "background": [is_background],
        "count": [len(detection.objects) == len(scene.objects)],
        "place": [set(detection.places) == {placed_object.place for placed_object in scene.objects}],
        "object": [
            detected_object is not None and detected_object.number == placed_object.object.number
            for placed_object, detected_object in zip(scene.objects, _pairs(scene, detection), strict=True)
        ],
        "all": [is_background and {(each.place, each.side, each.number) for each in detection.objects} == named],
    }


def _pairs(scene: Scene, detection: Detection) -> list[DetectedObject | None]:
    """For each named object the object in the image to compare it with: the one at its place, else an unmatched one.

    There is at most one each, so that nobody gains by drawing more, and a right object at a wrong place still counts.
    """
    at_place = [detection.at(placed_object.place) for placed_object in scene.objects]
    unmatched_objects = [
        detected_object
        for detected_object in detection.objects
        if not any(detected_object is match for match in at_place)
    ]
    return [
        detected_object or (unmatched_objects.pop(0) if unmatched_objects else None) for detected_object in at_place
    ]
